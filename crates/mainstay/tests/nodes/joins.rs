//! A second machine: it joins with a token, once, runs sessions, and its logs are read over the connection that it opened.

use serde_json::Value;

use tokio::time::Instant;

use crate::stage::{Machine, Stage, ready};

#[test]
fn a_machine_joins_runs_sessions_and_its_logs_are_read() {
    let stage = Stage::new();
    let mut machine = stage.machine("box-1");
    let shown = stage.run(&["get", "nodes"], "");
    assert!(shown.contains("box-1") && shown.contains("Ready") && shown.contains(env!("CARGO_PKG_VERSION")), "{shown}");
    let node = stage.session("hello", "echo said here; sleep 1000");
    assert_eq!(node, "box-1", "the server's own node takes no Pods");
    let log = stage.run(&["logs", "hello", "-n", "web"], "");
    assert!(log.contains("said here"), "{log}");
    // Over a restart of the agent the sandbox goes on, and is reached again, without a token.
    machine.kill();
    machine.start(None);
    stage.until("sessions", "hello", |session| session["status"]["phase"] == "Running");
    let end = Instant::now() + crate::stage::PATIENCE;
    while !stage.try_run(&["logs", "hello", "-n", "web"], "").status.success() {
        assert!(Instant::now() < end, "{}", machine.log_text());
    }
    stage.run(&["stop", "hello", "-n", "web"], "");
    let ended = stage.until("sessions", "hello", |session| session["status"]["phase"] == "Stopped");
    assert_eq!(ended["status"]["run"], 1);
    let term = |node: &Value| node["spec"]["leaseTransitions"].as_u64();
    let lease = stage.run(&["get", "leases", "box-1", "-n", "kube-node-lease", "-o", "json"], "");
    assert_eq!(term(&serde_json::from_str(&lease).unwrap()), Some(2), "one for each start");
}

#[test]
fn a_token_lets_one_machine_join_and_only_the_server_that_it_is_for_is_asked() {
    let stage = Stage::new();
    let token = stage.token(&["box-1"]);
    let url = stage.server.url().unwrap();
    let mut wrong = Machine::new("box-2", &url);
    drop(wrong.spawn(Some(&token)));
    assert_ne!(wrong.wait(), Some(0), "it is for another name");
    let mut stranger = Machine::new("box-1", &url);
    let cut = token.trim().len() - 64;
    drop(stranger.spawn(Some(&format!("{}{}", &token[..cut], "0".repeat(64)))));
    assert_ne!(stranger.wait(), Some(0), "the server shows another authority");
    drop(stranger.spawn(None));
    assert_ne!(stranger.wait(), Some(0), "it has neither certificate nor token");
    assert!(stranger.log_text().is_empty() || !stranger.log_text().contains(token.trim()), "no secret in the log");
    let mut machine = Machine::new("box-1", &url);
    machine.start(Some(&token));
    stage.until("nodes", "box-1", |node| ready(node) == Some(true));
    let mut again = Machine::new("box-1", &url);
    drop(again.spawn(Some(&token)));
    assert_ne!(again.wait(), Some(0), "it was used");
    let kept = std::fs::read_to_string(machine.dir().join("node/identity.json")).unwrap();
    assert!(!stage.server.log_text().contains("PRIVATE KEY") && kept.contains("PRIVATE KEY"));
}

#[test]
fn a_machine_of_the_same_name_takes_over_and_the_older_one_ends() {
    let stage = Stage::new();
    let mut old = stage.machine("box-1");
    let token = stage.token(&["box-1"]);
    let mut new = Machine::new("box-1", &stage.server.url().unwrap());
    new.start(Some(&token));
    assert_ne!(old.wait(), Some(0), "its term is over");
    assert!(old.log_text().contains("term of this node's agent is over"), "{}", old.log_text());
    assert_eq!(stage.session("hello", "sleep 1000"), "box-1");
    stage.run(&["stop", "hello", "-n", "web"], "");
}

#[test]
fn sessions_are_spread_over_the_nodes_that_take_them() {
    let stage = Stage::new();
    let (_one, _two) = (stage.machine("box-1"), stage.machine("box-2"));
    let mut nodes: Vec<String> = (0..4).map(|at| stage.session(&format!("s{at}"), "sleep 1000")).collect();
    nodes.sort();
    assert_eq!(nodes, ["box-1", "box-1", "box-2", "box-2"]);
    stage.close("box-1", true);
    assert_eq!(stage.session("s4", "sleep 1000"), "box-2");
}
