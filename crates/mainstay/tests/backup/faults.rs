//! What is wrong in a data directory is found, named, and not backed up.

use std::fs;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

const MANIFESTS: &str = r"
apiVersion: v1
kind: Secret
metadata: {name: sealed, namespace: default}
stringData: {one: first, two: second}
---
apiVersion: mainstay.dev/v1alpha1
kind: Credential
metadata: {name: github, namespace: default}
spec: {provider: github, token: hidden}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: plain, namespace: default, labels: {app: a}}
data: {key: value}
";

/// What is done to the database, and what is said of which object.
const FAULTS: [(&str, &str, &str); 9] = [
    ("body = CAST('{' AS BLOB) WHERE name = 'plain'", "/configmaps/default/plain", "its content is no JSON"),
    (
        "body = CAST(replace(body, '\"resourceVersion\":\"', '\"resourceVersion\":\"9') AS BLOB) WHERE name = 'plain'",
        "/configmaps/default/plain",
        "its metadata.resourceVersion is \"9",
    ),
    (
        "meta = replace(meta, '\"uid\":\"', '\"uid\":\"x') WHERE name = 'plain'",
        "/configmaps/default/plain",
        "its metadata.uid is",
    ),
    (
        "body = CAST(replace(body, '\"name\":\"plain\"', '\"name\":\"other\"') AS BLOB) WHERE name = 'plain'",
        "/configmaps/default/plain",
        "its metadata.name is \"other\"",
    ),
    (
        "meta = replace(meta, '\"app\",\"a\"', '\"app\",\"b\"') WHERE name = 'plain'",
        "/configmaps/default/plain",
        "what selectors and owners know of it",
    ),
    (
        "body = CAST(replace(body, '\"one\":', '\"swapped\":') AS BLOB) WHERE name = 'sealed'",
        "/secrets/default/sealed",
        "its data.swapped does not open: the stored value was changed, or belongs to another",
    ),
    (
        "body = CAST(replace(body, 'mainstay:v1:', 'mainstay:v2:') AS BLOB) WHERE name = 'github'",
        "mainstay.dev/credentials/default/github",
        "its spec.token does not open: the stored value is not an encrypted one",
    ),
    (
        "body = CAST(replace(body, 'mainstay:v1:', 'mainstay:v1:0') AS BLOB) WHERE name = 'github'",
        "mainstay.dev/credentials/default/github",
        "its spec.token does not open: the stored value is encrypted under an unknown",
    ),
    ("resource = 'example.org/gadgets' WHERE name = 'plain'", "example.org/gadgets/default/plain", "has no such kind"),
];

/// A copy of a directory without a server.
fn copy_of(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["state.db", "key"] {
        fs::copy(dir.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

/// What is found there: (place, what it means) of each.
fn faults(dir: &Path) -> Vec<(String, String)> {
    let done = fsck(dir);
    assert_eq!(done.code, Some(1), "{done:?}");
    let report = json(&done.out);
    let text = |fault: &Value, field: &str| fault[field].as_str().unwrap_or_default().to_owned();
    assert!(report["faults"].as_array().unwrap().iter().all(|fault| !text(fault, "remedy").is_empty()), "{report}");
    report["faults"].as_array().unwrap().iter().map(|fault| (text(fault, "place"), text(fault, "meaning"))).collect()
}

#[test]
fn what_is_wrong_in_objects_and_keys_is_found_and_not_backed_up() {
    let mut server = Server::start(EXE).unwrap();
    let manifest = beside(&server, "manifest.yaml");
    fs::write(&manifest, MANIFESTS).unwrap();
    run(&server, &format!("apply -f {}", manifest.display())).ok();
    server.stop().unwrap();
    let well = copy_of(&server.data_dir());
    let said = finish(command("fsck", well.path()), "").ok();
    assert!(said.starts_with("clean: revision "), "{said}");
    for (change, place, meaning) in FAULTS {
        let copy = copy_of(well.path());
        let database = Connection::open(copy.path().join("state.db")).unwrap();
        assert!(database.execute(&format!("UPDATE history SET {change}"), []).unwrap() > 0, "{change}");
        drop(database);
        let found = faults(copy.path());
        assert!(
            found.iter().any(|(at, what)| at.starts_with(place) && what.contains(meaning)),
            "{change}: {place}: {meaning}\nfound {found:#?}"
        );
    }
    keys(well.path());
    refused(well.path());
}

fn keys(well: &Path) {
    let found = |change: &dyn Fn(&Path), meaning: &str| {
        let copy = copy_of(well);
        change(copy.path());
        let found = faults(copy.path());
        assert!(found.iter().any(|(_, what)| what.contains(meaning)), "{meaning}\nfound {found:#?}");
    };
    let key = |content: Option<&'static [u8]>| {
        move |dir: &Path| match content {
            Some(content) => fs::write(dir.join("key"), content).unwrap(),
            None => fs::remove_file(dir.join("key")).unwrap(),
        }
    };
    found(&key(None), "/key is missing");
    found(&key(Some(b"short")), "it has 5 bytes, and must have 32 random ones");
    found(&key(Some(&[0; 32])), "the key file does not match: the keys in the database are wrapped by key ");
    found(
        &|dir| {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
        },
        "its mode is 0644",
    );
    for (change, meaning) in [
        ("DELETE FROM keyring WHERE name = 'tokens'", "there is no version of the key tokens"),
        ("UPDATE keyring SET wrapped = x'00' WHERE name = 'ca'", "version 1 of the key ca cannot be used"),
        (
            "UPDATE keyring SET name = 'data', version = 2 WHERE name = 'admin'",
            "version 2 of the key data cannot be used",
        ),
        ("UPDATE keyring SET version = 2 WHERE name = 'data'", "version 2 of the key data cannot be used"),
        ("DELETE FROM keyring WHERE name = 'data'", "there is no data key"),
    ] {
        let change = |dir: &Path| {
            let database = Connection::open(dir.join("state.db")).unwrap();
            assert_eq!(database.execute(change, []).unwrap(), 1, "{change}");
        };
        found(&change, meaning);
    }
}

fn refused(well: &Path) {
    let to = tempfile::tempdir().unwrap();
    let file = to.path().join("b.tar");
    let backup = |dir: &Path| {
        let mut backup = command("backup", dir);
        backup.arg("--to").arg(&file);
        finish(backup, "")
    };
    fs::remove_file(well.join("key")).unwrap();
    let done = backup(well);
    assert!(done.out.contains("there is no data key"), "{done:?}");
    assert!(done.failed(1).contains("nothing was backed up"));
    let none = to.path().join("none");
    assert!(backup(&none).failed(3).contains("there is no state in"));
    assert!(fsck(&none).failed(2).contains("there is no state in"));
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0, "nothing is left behind");
    // What is no backup is none, and nothing comes of it.
    fs::write(&file, vec![0; 10_240]).unwrap();
    let mut restore = command("restore", &none);
    restore.arg(&file);
    assert!(finish(restore, "").failed(4).contains("is not a whole backup"));
    assert!(!none.exists());
}
