//! A server's state moves from its directory into PostgreSQL: real processes, killed at every step of it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::path::Path;
use std::process::Command;

use mainstay_runtime::fault::ENV;
use mainstay_testkit::command::{Done, finish};
use mainstay_testkit::postgres::{self, Cluster, Database};
use mainstay_testkit::server::Server;
use serde_json::Value;

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
/// Holds the URL.
const VARIABLE: &str = "MAINSTAY_DATABASE";
const KEY_FILE: &str = "MAINSTAY_KEY_FILE";
/// Tables that are filled: after each of them a migration can be killed.
const TABLES: u32 = 10;
const MOVED: &str = "moved-to-postgres";
const MOVING: &str = "moving-to-postgres";

const MANIFESTS: &str = r"
apiVersion: v1
kind: Secret
metadata: {name: sealed, namespace: default}
stringData: {one: first}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: plain, namespace: default}
data: {key: value}
";

/// `mainstay migrate`, with a fault.
fn migrate(dir: &Path, to: &Database, fault: Option<&str>) -> Done {
    let mut command = Command::new(EXE);
    command.args(["migrate", "--data-dir"]).arg(dir).env(VARIABLE, &to.url);
    match fault {
        Some(fault) => command.env(ENV, fault),
        None => command.env_remove(ENV),
    };
    finish(command, "")
}

/// A server with something in it, and what is in it. It is stopped.
fn server() -> (Server, Vec<Value>) {
    let mut server = Server::start(EXE).unwrap();
    finish(server.command(&["apply", "-f", "-"]), MANIFESTS).ok();
    let held = objects(&server);
    server.stop().unwrap();
    (server, held)
}

/// What does not change by itself.
fn objects(server: &Server) -> Vec<Value> {
    let get = |what: &str| {
        let text = finish(server.command(&["get", what, "-n", "default", "-o", "json"]), "").ok();
        serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    ["secret/sealed", "configmap/plain"].map(get).to_vec()
}

/// Rows in the database, when there are tables.
fn rows(cluster: &Cluster, database: &Database) -> String {
    let count =
        "SELECT coalesce(sum((xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM mainstay.%I',
        relname), false, true, '')))[1]::text::bigint), 0) FROM pg_class
        WHERE relnamespace = 'mainstay'::regnamespace AND relkind = 'r' AND relname NOT IN ('schema', 'log')";
    cluster.sql(&database.name, count).unwrap()
}

/// Starts it where it is refused; gives what it says.
fn refused(server: &mut Server) -> String {
    let before = server.log_text().len();
    server.restart().unwrap_err();
    server.wait().unwrap();
    server.log_text().split_off(before)
}

fn serve_over(server: &mut Server, database: &Database) {
    server.set_env(VARIABLE, Some(&database.url));
    server.set_env(KEY_FILE, server.data_dir().join("key").to_str());
    server.restart().unwrap();
}

#[test]
fn a_server_goes_on_over_postgres_with_what_it_had() {
    let (mut server, held) = server();
    let (dir, to) = (server.data_dir(), postgres::shared().unwrap().database().unwrap());
    let said = migrate(&dir, &to, None).ok();
    assert!(said.contains(&format!("has moved to {} at 127.0.0.1", to.name)) && said.contains("next "), "{said}");
    let refused = refused(&mut server);
    assert!(refused.contains("serve it with --database"), "{refused}");
    let mut backup = Command::new(EXE);
    backup.args(["backup", "--to"]).arg(server.scratch().join("backup.tar")).arg("--data-dir").arg(&dir);
    assert!(finish(backup, "").failed(4).contains("has moved to"));

    serve_over(&mut server, &to);
    assert_eq!(objects(&server), held, "uids, revisions, contents");
    finish(server.command(&["delete", "configmap", "plain", "-n", "default"]), "").ok();
    server.stop().unwrap();
    // Taken back, it is what it was, whatever came of it over there.
    std::fs::remove_file(dir.join(MOVED)).unwrap();
    server.set_env(VARIABLE, None);
    server.set_env(KEY_FILE, None);
    server.restart().unwrap();
    assert_eq!(objects(&server), held);
    server.stop().unwrap();
    let refused = migrate(&dir, &to, None).failed(4);
    assert!(refused.contains("is not empty") && refused.contains("drop its schema mainstay"), "{refused}");
}

#[test]
fn killed_anywhere_it_moves_all_or_nothing() {
    let (mut server, held) = server();
    let cluster = postgres::shared().unwrap();
    let (dir, to) = (server.data_dir(), cluster.database().unwrap());
    let killed = |fault: &str| {
        let done = migrate(&dir, &to, Some(fault));
        assert_eq!(done.code, None, "{fault}: {done:?}");
    };
    for table in 1..=TABLES {
        killed(&format!("kill:store.before-commit@{table}"));
        assert_eq!(rows(cluster, &to), "0", "after {table} tables");
        assert!(!dir.join(MOVED).exists() && !dir.join(MOVING).exists(), "after {table} tables");
    }
    server.restart().unwrap();
    assert_eq!(objects(&server), held, "it goes on as it was");
    server.stop().unwrap();

    // Said to be begun, and not committed.
    killed(&format!("kill:store.before-commit@{}", TABLES + 1));
    assert_eq!(rows(cluster, &to), "0");
    let words = refused(&mut server);
    assert!(words.contains("repeat `mainstay migrate`"), "{words}");
    // Committed, and not said.
    killed("kill:store.after-commit@1");
    assert_ne!(rows(cluster, &to), "0");
    let words = refused(&mut server);
    assert!(words.contains("repeat `mainstay migrate`"), "{words}");
    let moved = rows(cluster, &to);
    let said = migrate(&dir, &to, None).ok();
    assert!(said.contains("had moved to"), "{said}");
    assert_eq!(rows(cluster, &to), moved, "nothing was moved twice");
    serve_over(&mut server, &to);
    assert_eq!(objects(&server), held);
    server.stop().unwrap();
}

#[test]
fn a_password_stays_out_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let line = |arguments: &[&str]| {
        let mut command = Command::new(EXE);
        command.arg("migrate").args(arguments).arg("--data-dir").arg(dir.path().join("none")).env_remove(VARIABLE);
        finish(command, "")
    };
    let refused = line(&["--database", "postgres://me:hunter2@127.0.0.1/db"]).failed(2);
    assert!(refused.contains("--database-password-file") && !refused.contains("hunter2"), "{refused}");
    assert!(line(&[]).failed(2).contains("MAINSTAY_DATABASE"));
    let missing = line(&["--database", "postgres://me@127.0.0.1/db"]).failed(3);
    assert!(missing.contains("there is no state"), "{missing}");
}
