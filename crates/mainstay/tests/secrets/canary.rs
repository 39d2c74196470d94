//! A secret that is looked for everywhere: in answers, logs, files, processes; it is only where it was granted.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mainstay_testkit::server::Server;
use rustix::fs::{SeekFrom, seek};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::wire::{Answer, Wire};

/// The token of the Credential, and the value of the Secret; neither occurs anywhere else in this program's work.
const TOKEN: &str = "canary-5eC9wq-of-the-credential";
const VALUE: &str = "canary-7hQ2zt-of-the-secret-key";

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const OURS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default";

/// An agent that tells of the credential what can be told, and where else in its world the token is to be found. The
/// token itself goes over no command line and into no message.
const LOOKER: &str = r#"
f=/mainstay/credentials/git/token
echo "sum $(sha256sum < $f | cut -c1-64)"
for part in token url email; do echo "$part $(stat -c %a /mainstay/credentials/git/$part) $(stat -f -c %T $f)"; done
echo "written $(echo x 2>/dev/null >> $f && echo yes || echo no)"
cp $f /dev/shm/needle 2>/dev/null || cp $f /tmp/needle
needle=$(ls /dev/shm/needle /tmp/needle 2>/dev/null)
echo "found $(grep -rlsFf $needle /mainstay /workspace /etc /home /root /var /run 2>/dev/null | tr '\n' ' ')"
echo "mine $(env | grep -cFf $needle)"
echo "others $(cat /proc/*/cmdline /proc/1/environ 2>/dev/null | tr '\0' '\n' | grep -cFf $needle)"
rm -f $needle
while read -r line; do :; done
"#;

/// An agent that was granted nothing.
const STRANGER: &str =
    "find /mainstay/credentials | wc -l; env | grep -c -i -e token -e git; while read -r line; do :; done";

fn session(name: &str, script: &str, grants: &Value) -> Value {
    let env = json!([{"name": "MARK", "value": format!("of-{name}")}]);
    let spec = json!({
        "command": ["/bin/sh", "-c", script], "credentials": grants, "env": env, "workspace": {"size": "16Mi"},
    });
    json!({"metadata": {"name": name}, "spec": spec})
}

/// A server that logs all that it can, with the secrets in it and three sessions at work: one is granted the
/// credential, one asks for it in its environment, and one has nothing.
fn stage() -> (Server, Wire) {
    let server = Server::start_with(super::EXE, &[("MAINSTAY_LOG", "debug")]).unwrap();
    let wire = Wire::of(&server);
    let applied = |manifest: Value| json!({"kubectl.kubernetes.io/last-applied-configuration": manifest.to_string()});
    let spec = json!({"provider": "git", "url": "https://git.invalid", "email": "a@b.c", "token": TOKEN});
    let credential = json!({"metadata": {"name": "git", "annotations": applied(json!({"spec": spec}))}, "spec": spec});
    wire.json("POST", &format!("{OURS}/credentials"), &credential).expect(201);
    let secret = json!({"metadata": {"name": "key", "annotations": applied(json!({"stringData": {"k": VALUE}}))}, "stringData": {"k": VALUE}});
    wire.json("POST", SECRETS, &secret).expect(201);
    let env = json!([{"name": "git", "tokenEnv": "GIT_TOKEN"}]);
    for (name, script, grants) in
        [("granted", LOOKER, json!([{"name": "git"}])), ("asked", LOOKER, env), ("stranger", STRANGER, json!([]))]
    {
        wire.json("POST", &format!("{OURS}/sessions"), &session(name, script, &grants)).expect(201);
    }
    (server, wire)
}

/// What an agent said, once it has said this much.
fn said(wire: &Wire, name: &str, lines: usize) -> Vec<String> {
    let path = format!("{OURS}/sessions/{name}/messages?types=agent");
    let deadline = Instant::now() + super::wire::PATIENCE;
    loop {
        let text = wire.call("GET", &path, "", "").text();
        let found: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let said: Vec<String> = found.iter().filter_map(|message| Some(message["text"].as_str()?.to_owned())).collect();
        if said.len() >= lines {
            return said;
        }
        let state = wire.get(&format!("{OURS}/sessions/{name}"));
        assert!(Instant::now() < deadline, "{name} said {said:?}: {}", state["status"]);
        std::thread::yield_now();
    }
}

/// Both secrets, as they are and in base64.
fn needles() -> [Vec<u8>; 4] {
    [TOKEN, VALUE, &BASE64_STANDARD.encode(TOKEN), &BASE64_STANDARD.encode(VALUE)].map(|text| text.as_bytes().to_vec())
}

fn holds(bytes: &[u8]) -> bool {
    needles().iter().any(|needle| {
        let begins = bytes.iter().enumerate().filter(|(_, byte)| **byte == needle[0]);
        begins.into_iter().any(|(at, _)| bytes[at..].starts_with(needle))
    })
}

/// What is in a file, without its holes: workspaces are sparse.
fn content(path: &Path) -> Vec<u8> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let (mut bytes, mut at) = (Vec::new(), 0);
    while let Ok(begin) = seek(&file, SeekFrom::Data(at)) {
        let Ok(end) = seek(&file, SeekFrom::Hole(begin)) else { break };
        let mut part = vec![0; usize::try_from(end - begin).unwrap()];
        let length = file.read_at(&mut part, begin).unwrap();
        bytes.extend_from_slice(&part[..length]);
        at = end;
    }
    bytes
}

/// The files below a directory that hold a secret.
fn files_with_secrets(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            files_with_secrets(&path, found);
        } else if kind.is_file() && holds(&content(&path)) {
            found.push(path.display().to_string());
        }
    }
}

/// The processes with a secret in their command line or environment, but for those of the session that asked for it.
fn processes_with_secrets() -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let (line, environment) = (read("cmdline"), read("environ"));
        let asked = environment.split(|byte| *byte == 0).any(|variable| variable == b"MARK=of-asked");
        if holds(&line) || (holds(&environment) && !asked) {
            found.push(format!("{} {}", entry.path().display(), String::from_utf8_lossy(&line)));
        }
    }
    found
}

/// Or its silence would mean nothing.
fn the_search_finds_what_is_there(server: &Server) {
    let planted = server.scratch().join("planted");
    let sparse = File::create(&planted).unwrap();
    sparse.set_len(1 << 24).unwrap();
    sparse.write_all_at(BASE64_STANDARD.encode(VALUE).as_bytes(), 1 << 20).unwrap();
    let mut found = Vec::new();
    files_with_secrets(server.scratch(), &mut found);
    assert_eq!(found, [planted.display().to_string()]);
    std::fs::remove_file(planted).unwrap();
    let mut shell = Command::new("/bin/sleep").arg("60").env("PLANTED", TOKEN).spawn().unwrap();
    let place = format!("/proc/{} ", shell.id());
    assert!(processes_with_secrets().iter().any(|process| process.starts_with(&place)));
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn a_credential_is_where_it_was_granted_and_nowhere_else() {
    let (mut server, wire) = stage();
    let sum =
        Command::new("sha256sum").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
    let mut sum = sum.unwrap();
    std::io::Write::write_all(&mut sum.stdin.take().unwrap(), TOKEN.as_bytes()).unwrap();
    let sum = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    for (name, in_environment) in [("granted", 0), ("asked", 1)] {
        let said = said(&wire, name, 8);
        let expected = [
            format!("sum {}", &sum[..64]),
            "token 400 tmpfs".to_owned(),
            "url 400 tmpfs".to_owned(),
            "email 400 tmpfs".to_owned(),
            "written no".to_owned(),
            "found /mainstay/credentials/git/token ".to_owned(),
            format!("mine {in_environment}"),
            "others 0".to_owned(),
        ];
        assert_eq!(said, expected, "{name}");
    }
    assert_eq!(said(&wire, "stranger", 2), ["1", "0"], "the directory alone, and no variable");
    the_search_finds_what_is_there(&server);
    for moment in ["at work", "killed", "started again"] {
        let mut found = Vec::new();
        files_with_secrets(server.scratch(), &mut found);
        assert_eq!(found, [""; 0], "files, {moment}");
        assert_eq!(processes_with_secrets(), [""; 0], "processes, {moment}");
        match moment {
            "at work" => server.kill9().unwrap(),
            "killed" => server.restart().unwrap(),
            _ => {}
        }
    }
    // The log is among those files; it says a lot, so that its silence means something.
    assert!(server.log_text().contains("DEBUG"), "{}", server.log_text().len());
    // Renewed, the token reaches the next run, and the old one goes nowhere.
    wire.json("PATCH", &format!("{OURS}/credentials/git"), &json!({"spec": {"description": "x"}})).expect(200);
    let mut found = Vec::new();
    files_with_secrets(server.scratch(), &mut found);
    assert_eq!(found, [""; 0], "files, after a change");
}

#[test]
fn no_answer_shows_a_secret_to_who_did_not_ask_for_it() {
    let (server, wire) = stage();
    said(&wire, "granted", 8);
    let clean = |what: &str, text: &[u8]| {
        assert!(!holds(text), "{what}: {}", String::from_utf8_lossy(text));
    };
    let credential = format!("{OURS}/credentials/git");
    let accepts = [
        "application/json",
        "application/json;as=Table;g=meta.k8s.io;v=v1",
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    ];
    for path in [&credential, &format!("{OURS}/credentials")] {
        for accept in accepts {
            let list = if accept.contains("Partial") && !path.ends_with("git") {
                accept.replace("Metadata;", "MetadataList;")
            } else {
                accept.to_owned()
            };
            let head = wire.head("GET", &format!("{path}?includeObject=Object"));
            let answer = wire.raw(format!("{head}Accept: {list}\r\nConnection: close\r\n\r\n").as_bytes());
            assert_eq!(Answer::parse(&answer).status, 200, "{path} {list}");
            clean(path, &answer);
        }
    }
    let watches = format!("{OURS}/credentials?watch=1&timeoutSeconds=1");
    let made = wire.call("GET", &watches, "", "");
    assert!(made.text().contains("\"ADDED\""), "{}", made.text());
    clean("a watch", &made.body);
    for collection in ["/api/v1/events", "/api/v1/pods", "/api/v1/configmaps", "/apis/mainstay.dev/v1alpha1/sessions"] {
        clean(collection, wire.get(collection).to_string().as_bytes());
    }
    for name in ["granted", "asked", "stranger"] {
        clean(name, &wire.call("GET", &format!("{OURS}/sessions/{name}/messages"), "", "").body);
        clean(name, &wire.call("GET", &format!("/api/v1/namespaces/default/pods/{name}-1/log"), "", "").body);
    }
    for path in ["/metrics", "/openapi/v3", "/readyz?verbose"] {
        clean(path, &wire.call("GET", path, "", "").body);
    }
    for line in [
        "get credential git -o yaml",
        "get credentials -o json",
        "get cred",
        "describe credential git",
        "describe secret key",
        "get secrets",
        "describe session granted",
        "get session asked -o yaml",
        "describe pod asked-1",
        "status",
        "get events",
        "get all -o yaml",
    ] {
        let done = server.command(&line.split(' ').collect::<Vec<_>>()).output().unwrap();
        clean(line, &[done.stdout, done.stderr].concat());
    }
    // Whoever asks for the Secret itself gets it, whole; what kubectl remembers of it included.
    let secret = wire.get(&format!("{SECRETS}/key"));
    assert_eq!(secret["data"]["k"], BASE64_STANDARD.encode(VALUE));
}

/// Wrong manifests with a secret in them.
fn wrong(credentials: &str) -> Vec<(&str, Value)> {
    let plain = |spec: Value| json!({"metadata": {"name": "x"}, "spec": spec});
    let with = |field: &str, value: Value| {
        let mut secret = json!({"metadata": {"name": "x"}});
        secret[field] = value;
        secret
    };
    vec![
        (credentials, plain(json!(TOKEN))),
        (credentials, plain(json!([TOKEN]))),
        (credentials, plain(json!({"provider": "x", "token": [TOKEN]}))),
        (credentials, plain(json!({"provider": "x", "token": {"a": TOKEN}}))),
        (credentials, plain(json!({"provider": "x", "token": format!("{TOKEN}\0")}))),
        (credentials, plain(json!({"provider": "x", "token": TOKEN.repeat(3_000)}))),
        (credentials, plain(json!({"provider": "x", "tokn": TOKEN}))),
        (credentials, plain(json!({"token": TOKEN}))),
        (credentials, json!({"metadata": {"name": "X"}, "spec": {"provider": "x", "token": TOKEN}})),
        (credentials, json!({"metadata": {"name": "git"}, "spec": {"provider": "x", "token": TOKEN}})),
        (SECRETS, with("data", json!(VALUE))),
        (SECRETS, with("data", json!([VALUE]))),
        (SECRETS, with("data", json!({"k": VALUE}))),
        (SECRETS, with("data", json!({"k": [BASE64_STANDARD.encode(VALUE)]}))),
        (SECRETS, with("stringData", json!(VALUE))),
        (SECRETS, with("stringData", json!({"k": {"deep": VALUE}}))),
        (SECRETS, with("stringData", json!({"a/b": VALUE}))),
        (SECRETS, with("stringData", json!({"k": VALUE.repeat(60_000)}))),
        (SECRETS, with("strngData", json!({"k": VALUE}))),
        (SECRETS, json!({"metadata": {"name": "x"}, "type": "kubernetes.io/tls", "stringData": {"tls.crt": VALUE}})),
        (SECRETS, json!({"metadata": {"name": "key"}, "stringData": {"k": VALUE}})),
    ]
}

#[test]
fn no_error_shows_a_secret() {
    let server = Server::start_with(super::EXE, &[("MAINSTAY_LOG", "debug")]).unwrap();
    let wire = Wire::of(&server);
    let credentials = format!("{OURS}/credentials");
    let spec = json!({"provider": "git", "token": TOKEN});
    wire.json("POST", &credentials, &json!({"metadata": {"name": "git"}, "spec": spec})).expect(201);
    wire.json("POST", SECRETS, &json!({"metadata": {"name": "key"}, "stringData": {"k": VALUE}})).expect(201);
    let credentials = credentials.as_str();
    let refused = |what: &str, answer: &Answer| {
        assert!((400..500).contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
        assert!(!holds(&answer.body), "{what}: {}", answer.text());
    };
    for (path, body) in &wrong(credentials) {
        refused(&body.to_string(), &wire.json("POST", &format!("{path}?fieldValidation=Strict"), body));
    }
    for (media, body) in [
        ("application/json", format!("{{\"metadata\":{{}},\"stringData\":{{\"k\":\"{VALUE}\"")),
        ("application/json", format!("{{\"stringData\":{{\"k\":{VALUE}}}}}")),
        ("application/yaml", format!("metadata: {{name: x}}\nstringData:\n  k: {VALUE}\n  broken: [\n")),
        ("application/yaml", format!("metadata: {{name: x}}\nstringData: {{k: {VALUE}, k: {VALUE}}}\n")),
        ("application/yaml", format!("stringData:\n\tk: {VALUE}\n")),
        ("application/yaml", format!("k: {VALUE}\n---\nk: {VALUE}\n")),
        ("application/yaml", format!("k: *{VALUE}\n")),
        ("text/plain", VALUE.to_owned()),
    ] {
        let answer = wire.call("POST", SECRETS, media, &body);
        assert!((400..500).contains(&answer.status), "{body}: {}", answer.text());
        // The name of an anchor is said; nothing that stands beside what is wrong is.
        assert!(!holds(&answer.body) || body.starts_with("k: *"), "{body}: {}", answer.text());
    }
    let test = json!([{"op": "test", "path": "/data/k", "value": "x"}]).to_string();
    refused("test", &wire.call("PATCH", &format!("{SECRETS}/key"), "application/json-patch+json", test));
    let peek = json!([{"op": "copy", "from": "/spec/token", "path": "/spec/description"}]).to_string();
    refused("copy", &wire.call("PATCH", &format!("{credentials}/git"), "application/json-patch+json", peek));
    said_on_the_command_line(&server);
    assert!(!holds(server.log_text().as_bytes()), "the log");
    let mut found = Vec::new();
    files_with_secrets(server.scratch(), &mut found);
    assert_eq!(found, [""; 0]);
}

/// A manifest with a slip of the pen.
fn said_on_the_command_line(server: &Server) {
    let file = server.scratch().join("wrong.yaml");
    for text in [
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\nstringData:\n  k: {VALUE}\n  broken: [\n"),
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\nstringData: {{k: [{VALUE}]}}\n"),
        format!(
            "apiVersion: mainstay.dev/v1alpha1\nkind: Credential\nmetadata: {{name: x}}\nspec: {{provider: x, token: [{TOKEN}]}}\n"
        ),
        format!(
            "apiVersion: mainstay.dev/v1alpha1\nkind: Credential\nmetadata: {{name: x}}\nspec: {{provider: x, tokn: {TOKEN}}}\n"
        ),
    ] {
        std::fs::write(&file, &text).unwrap();
        let done = server.command(&["apply", "-f", file.to_str().unwrap()]).output().unwrap();
        assert!(!done.status.success(), "{text}");
        assert!(!holds(&[done.stdout, done.stderr.clone()].concat()), "{}", String::from_utf8_lossy(&done.stderr));
    }
    std::fs::remove_file(file).unwrap();
}
