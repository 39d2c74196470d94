//! Keys are rotated and wrapped anew while a real server serves; what is old stays good, until it is to be no more.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use mainstay_testkit::command::{Done, finish};
use mainstay_testkit::server::Server;
use serde_json::Value;

#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "bad_input/wire.rs"]
mod wire;

use wire::Wire;

const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
const SECRET: &str = "/api/v1/namespaces/default/secrets/s";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";

fn run(server: &Server, line: &str) -> Done {
    finish(server.command(&line.split_whitespace().collect::<Vec<_>>()), "")
}

/// By a copy of an earlier kubeconfig.
fn run_by(server: &Server, kubeconfig: &Path, line: &str) -> Done {
    let mut command = server.command(&line.split_whitespace().collect::<Vec<_>>());
    command.env("MAINSTAY_KUBECONFIG", kubeconfig);
    finish(command, "")
}

/// Waits until the server has written another kubeconfig than this.
fn renewed(server: &Server, before: &str) -> String {
    for _ in 0..1_000 {
        let now = fs::read_to_string(server.kubeconfig()).unwrap();
        if now != before {
            return now;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("the kubeconfig stays as it is");
}

#[test]
fn keys_are_rotated_while_it_serves_and_what_is_old_stays_good() {
    let mut server = Server::start(EXE).unwrap();
    let mut wire = Wire::of(&server);
    let body = serde_json::json!({"metadata": {"name": "s"}, "stringData": {"k": "hunter2"}});
    wire.json("POST", "/api/v1/namespaces/default/secrets", &body).expect(201);
    let data = wire.get(SECRET)["data"].clone();
    let account = wire.json("POST", ACCOUNT, &serde_json::json!({"spec": {}})).expect(201);
    let account = account["status"]["token"].as_str().unwrap().to_owned();
    let is_known = |wire: &Wire, token: &str| wire.call_as(token, "GET", "/api", "", "").status == 200;

    let kept = server.scratch().join("kept.kubeconfig");
    fs::copy(server.kubeconfig(), &kept).unwrap();
    let before = fs::read_to_string(&kept).unwrap();
    for key in ["ca", "tokens", "data"] {
        assert_eq!(run(&server, &format!("keys rotate {key}")).ok(), format!("key {key} rotated: version 2\n"));
    }
    let both = renewed(&server, &before);
    assert!(both.len() > before.len(), "it trusts both authorities");
    let shown = run_by(&server, &kept, "keys").ok();
    assert_eq!(shown.lines().filter(|line| line.ends_with("used")).count(), 4, "{shown}");
    assert_eq!(shown.lines().filter(|line| line.ends_with("accepted")).count(), 3, "{shown}");
    wire = Wire::of(&server);
    assert_eq!(wire.get(SECRET)["data"], data);
    assert!(is_known(&wire, &account));

    assert_eq!(run(&server, "keys retire tokens 1").ok(), "key tokens version 1 retired\n");
    assert!(!is_known(&wire, &account), "its signature is good for nothing");
    run(&server, "keys rotate admin").ok();
    renewed(&server, &both);
    assert!(run_by(&server, &kept, "keys").failed(4).contains("not valid"), "the admin's old token is dead");
    run(&server, "keys").ok();

    // All of it is still there after a restart, and after the wrapping key was replaced.
    server.kill9().unwrap();
    server.restart().unwrap();
    wrapped_anew(&mut server, &data);
}

fn wrapped_anew(server: &mut Server, data: &Value) {
    let key = server.data_dir().join("key");
    let old = fs::read(&key).unwrap();
    let wrong = server.scratch().join("wrong");
    let refused = run(server, &format!("keys rewrap --key-file {}", wrong.display())).failed(4);
    assert!(refused.contains("wrong is missing"), "{refused}");
    let said = run(server, &format!("keys rewrap --key-file {}", key.display())).ok();
    assert!(said.starts_with("the keys are wrapped by key "), "{said}");
    let new = fs::read(&key).unwrap();
    assert!(new != old && new.len() == 32 && !key.with_extension("new").exists());
    assert_eq!(&Wire::of(server).get(SECRET)["data"], data);
    server.stop().unwrap();

    // The old one opens nothing, and a start with it changes nothing.
    fs::write(&key, &old).unwrap();
    let start = server.spawn().unwrap();
    assert!(!server.wait().unwrap().success());
    drop(start);
    let log = server.log_text();
    assert!(log.contains("the key file does not match: the keys in the database are wrapped by key"), "{log}");
    fs::write(&key, &new).unwrap();
    server.restart().unwrap();
    assert_eq!(&Wire::of(server).get(SECRET)["data"], data);

    // A key file elsewhere; the backup then needs it, and holds nothing that can be read.
    server.stop().unwrap();
    let apart = server.scratch().join("apart.key");
    fs::rename(&key, &apart).unwrap();
    server.set_arguments(&["--key-file", apart.to_str().unwrap()]);
    server.restart().unwrap();
    let token = fs::read_to_string(server.kubeconfig()).unwrap();
    let token = token.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap().to_owned();
    let file = server.scratch().join("backup.tar");
    let line = format!("backup --data-dir {} --to {}", server.data_dir().display(), file.display());
    assert!(run(server, &line).failed(1).contains("nothing was backed up"));
    let said = run(server, &format!("{line} --key-file {}", apart.display())).ok();
    assert!(said.contains("Its key file is not in it"), "{said}");
    let (bytes, log) = (fs::read(&file).unwrap(), server.log_text());
    for secret in [&new[..], &old, token.as_bytes(), b"hunter2"] {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret), "the backup is of use without the key file");
        assert!(!log.as_bytes().windows(secret.len()).any(|part| part == secret), "a log holds a key");
    }
    let elsewhere = server.scratch().join("elsewhere");
    let line = format!("restore {} --data-dir {}", file.display(), elsewhere.display());
    assert!(run(server, &line).failed(1).contains("nothing was restored"));
    run(server, &format!("{line} --key-file {}", apart.display())).ok();
    assert!(!elsewhere.join("key").exists());
}
