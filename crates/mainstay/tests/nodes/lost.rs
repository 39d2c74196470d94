//! Nodes that are silent: their sessions are lost after a while, never run again, and ended when the node comes back.

use rustix::process::Signal;
use tokio::time::Instant;

use crate::stage::{PATIENCE, Stage, ready};

#[test]
fn a_frozen_nodes_sessions_are_lost_and_it_ends_them_when_it_comes_back() {
    let stage = Stage::new();
    let machine = stage.machine("box-1");
    let mark = stage.server.scratch().join("ran");
    stage.session("hello", "echo ran; sleep 1000");
    let before = machine.processes();
    assert!(before > 1);
    machine.signal(Signal::STOP);
    let began = Instant::now();
    stage.until("nodes", "box-1", |node| ready(node) == Some(false));
    let unready = began.elapsed();
    let lost = stage.until("sessions", "hello", |session| session["status"]["phase"] == "Failed");
    let after = began.elapsed();
    assert_eq!(lost["status"]["stoppedReason"], "NodeLost", "{lost}");
    assert!(after.as_secs() >= 9, "not before its lease is over, from the last renewal: {after:?}");
    println!("frozen: not ready after {unready:?}, lost after {after:?}");
    let refused = stage.try_run(&["logs", "hello", "-n", "web"], "");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("box-1"), "{refused:?}");
    // Another run waits for what may still run of this one.
    stage.run(&["resume", "hello", "-n", "web"], "");
    let pod = stage.get("pods", "hello-1").expect("its node still holds it");
    assert_eq!(pod["status"]["reason"], "NodeLost");
    assert!(stage.get("pods", "hello-2").is_none(), "nothing runs beside what may still run");
    assert_eq!(machine.processes(), before, "it goes on");
    machine.signal(Signal::CONT);
    stage.until("nodes", "box-1", |node| ready(node) == Some(true));
    stage.gone("pods", "hello-1");
    let again = stage.until("sessions", "hello", |session| session["status"]["phase"] == "Running");
    assert_eq!(again["status"]["run"], 2, "{again}");
    drop(mark);
}

#[test]
fn a_node_that_is_back_in_time_loses_nothing() {
    let stage = Stage::new();
    let mut machine = stage.machine("box-1");
    stage.session("hello", "echo ran; sleep 1000");
    machine.signal(Signal::STOP);
    stage.until("nodes", "box-1", |node| ready(node) == Some(false));
    machine.signal(Signal::CONT);
    stage.until("nodes", "box-1", |node| ready(node) == Some(true));
    machine.kill();
    machine.start(None);
    let session = stage.get("sessions", "hello").unwrap();
    assert_eq!(session["status"]["phase"], "Running", "{session}");
}

#[test]
fn a_frozen_or_killed_server_loses_no_session_of_a_node() {
    let mut stage = Stage::new();
    let machine = stage.machine("box-1");
    stage.session("hello", "echo ran; sleep 1000");
    stage.server.kill9().unwrap();
    stage.server.restart().unwrap();
    stage.until("nodes", "box-1", |node| ready(node) == Some(true));
    let pid = i32::try_from(stage.server.pid().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    // Longer than a lease, and than all patience with a node: it is the server's own time that stands still.
    std::thread::park_timeout(std::time::Duration::from_secs(20));
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    let end = Instant::now() + std::time::Duration::from_secs(15);
    while Instant::now() < end {
        let session = stage.get("sessions", "hello").unwrap();
        assert_eq!(session["status"]["phase"], "Running", "{session}\n{}", machine.log_text());
    }
    assert!(Instant::now() < end + PATIENCE);
}

#[test]
fn who_deletes_a_node_gives_its_sessions_up() {
    let stage = Stage::new();
    let mut machine = stage.machine("box-1");
    stage.session("hello", "echo ran; sleep 1000");
    machine.kill();
    stage.run(&["delete", "node", "box-1"], "");
    stage.gone("nodes", "box-1");
    let lost = stage.until("sessions", "hello", |session| session["status"]["phase"] == "Failed");
    assert_eq!(lost["status"]["stoppedReason"], "NodeLost", "{lost}");
    stage.run(&["delete", "session", "hello", "-n", "web"], "");
    stage.gone("sessions", "hello");
    // Its certificate is for a node that is no more.
    let said = machine.spawn(None);
    assert_ne!(machine.wait(), Some(0), "{}", machine.log_text());
    drop(said);
}
