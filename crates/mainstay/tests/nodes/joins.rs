//! A second machine: it joins with a token, once, runs sessions, and its logs are read over the connection that it opened.

use serde_json::Value;

use tokio::time::Instant;

use crate::stage::{Machine, Stage, holder, ready};

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
fn another_machine_gets_a_name_once_nothing_can_run_where_it_was_and_the_older_one_ends() {
    let stage = Stage::new();
    let mut old = stage.machine("box-1");
    assert_eq!(stage.session("hello", "sleep 1000"), "box-1");
    let token = stage.token(&["box-1"]);
    let mut new = Machine::new("box-1", &stage.server.url().unwrap());
    drop(new.spawn(Some(&token)));
    assert_eq!(new.wait(), Some(1), "{}", new.log_text());
    for words in ["may be running web/hello-1,", "mainstay delete node box-1"] {
        assert!(new.log_text().contains(words), "{}", new.log_text());
    }
    stage.run(&["stop", "hello", "-n", "web"], "");
    stage.until("sessions", "hello", |session| session["status"]["phase"] == "Stopped");
    // What was refused was not used up.
    new.start(Some(&token));
    assert_eq!(old.wait(), Some(4), "{}", old.log_text());
    assert!(old.log_text().contains("another has joined under its name"), "{}", old.log_text());
    let before = new.processes();
    assert_eq!(stage.session("again", "sleep 1000"), "box-1");
    assert!(new.processes() > before, "it runs there");
    // Whatever starts the older one again: it says so, and changes nothing.
    let held = holder(&stage, "box-1");
    for _ in 0..3 {
        drop(old.spawn(None));
        assert_eq!(old.wait(), Some(4), "{}", old.log_text());
    }
    assert_eq!(holder(&stage, "box-1"), held);
    let session = stage.get("sessions", "again").unwrap();
    assert_eq!((&session["status"]["phase"], &session["status"]["run"]), (&"Running".into(), &1.into()), "{session}");
}

#[test]
fn a_machine_that_joins_anew_goes_on_with_its_pods() {
    let stage = Stage::new();
    let mut machine = stage.machine("box-1");
    assert_eq!(stage.session("hello", "sleep 1000"), "box-1");
    let uid = || stage.get("pods", "hello-1").unwrap()["metadata"]["uid"].clone();
    let pod = uid();
    machine.kill();
    std::fs::remove_file(machine.dir().join("node/identity.json")).unwrap();
    machine.start(Some(&stage.token(&["box-1"])));
    stage.run(&["stop", "hello", "-n", "web"], "");
    let ended = stage.until("sessions", "hello", |session| session["status"]["phase"] == "Stopped");
    assert_eq!((ended["status"]["run"].as_u64(), uid()), (Some(1), pod), "its sandbox was there to be ended: {ended}");
}

#[test]
fn the_name_of_a_servers_own_node_is_not_to_be_had() {
    let stage = Stage::new();
    let token = stage.token(&["home"]);
    let mut machine = Machine::new("home", &stage.server.url().unwrap());
    drop(machine.spawn(Some(&token)));
    assert_eq!(machine.wait(), Some(1), "{}", machine.log_text());
    assert!(machine.log_text().contains("own node of a server"), "{}", machine.log_text());
    stage.until("nodes", "home", |node| ready(node) == Some(true));
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
