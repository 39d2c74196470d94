//! The authority is rotated to its end, and the node, which is never restarted, goes along.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::stage::{Machine, PATIENCE, Stage, log, ready};

/// A node looks every 30 s.
const LEARNS: Duration = Duration::from_mins(2);

/// Waits until what the machine keeps of itself is so.
fn learns(machine: &Machine, is_so: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + LEARNS;
    loop {
        let kept = std::fs::read(machine.dir().join("node/identity.json")).unwrap();
        let kept: Value = serde_json::from_slice(&kept).unwrap();
        if is_so(&kept) {
            return kept;
        }
        assert!(Instant::now() < end, "it does not learn:\n{}", machine.log_text());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn authorities(kept: &Value) -> usize {
    kept["authority"].as_str().unwrap().matches("BEGIN CERTIFICATE").count()
}

#[test]
fn a_node_learns_of_a_new_authority_while_it_runs_and_needs_the_old_one_no_more() {
    let mut stage = Stage::new();
    let machine = stage.machine("box-1");
    stage.session("hello", "echo said here; sleep 1000");
    let before = learns(&machine, |kept| authorities(kept) == 1);
    stage.run(&["keys", "rotate", "ca"], "");
    let both = learns(&machine, |kept| authorities(kept) == 2 && kept["issuer"] != before["issuer"]);
    assert_ne!(both["certificate"], before["certificate"], "the new authority has signed it");
    stage.run(&["keys", "retire", "ca", "1"], "");
    let after = learns(&machine, |kept| authorities(kept) == 1);
    assert_eq!(after["issuer"], both["issuer"]);
    // Everything that was connected connects anew.
    stage.server.kill9().unwrap();
    stage.server.restart().unwrap();
    let renewed = |stage: &Stage| stage.run(&["get", "leases", "box-1", "-n", "kube-node-lease", "-o", "json"], "");
    let (lease, end) = (renewed(&stage), Instant::now() + PATIENCE);
    while renewed(&stage) == lease || log(&stage, "hello").is_none_or(|log| !log.contains("said here")) {
        assert!(Instant::now() < end, "{}\n{}", stage.server.log_text(), machine.log_text());
    }
    stage.until("nodes", "box-1", |node| ready(node) == Some(true));
    let session = stage.get("sessions", "hello").unwrap();
    assert_eq!(session["status"]["phase"], "Running", "{session}");
    stage.run(&["stop", "hello", "-n", "web"], "");
}
