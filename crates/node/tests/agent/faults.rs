//! Every step of the agent fails once, in turn: the Pod comes to its right end all the same, and nothing is left over.

use std::process::{Command, Stdio};

use mainstay_runtime::fault::{ENV, LOG_ENV, Point, arm_from_env};
use serde_json::json;

use crate::bench::{Bench, eventually, pod};

/// A life in which each of the agent's fault points is hit. The other test runs it again in processes of its own, each
/// with a fault armed.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life() {
    arm_from_env().unwrap();
    let mut bench = Bench::new();
    let mark = bench.path("mark");
    let uid = bench.api.create(pod("fix-1", &format!("echo ran >> {}; exec sleep 60", mark.display())));
    bench.ready("fix-1").await;
    eventually("the agent process", || mark.exists().then_some(())).await;
    bench.stop().await;
    bench.start();
    bench.api.delete("fix-1", 1);
    bench.gone("fix-1").await;
    let last = bench.api.status_writes("fix-1").pop().unwrap();
    assert_eq!((&last["phase"], &last["reason"]), (&json!("Failed"), &json!("Stopped")));
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "ran\n", "it ran once");
    assert!(!bench.run_dir(&uid).exists());
}

#[test]
fn every_step_may_fail_once() {
    let dir = tempfile::tempdir().unwrap();
    let points: Vec<_> = Point::ALL.iter().filter(|point| point.name().starts_with("node.")).collect();
    assert!(points.len() >= 7);
    let lives = points.iter().map(|point| {
        let log = dir.path().join(point.name());
        let mut life = Command::new(std::env::current_exe().unwrap());
        life.args(["--exact", "faults::a_whole_life"]).env(ENV, format!("fail:{}@1", point.name()));
        let life = life.env(LOG_ENV, &log).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        (point, log, life)
    });
    // All are started before the first is waited for.
    for (point, log, life) in lives.collect::<Vec<_>>() {
        let output = life.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {words}", point.name());
        let hits = std::fs::read_to_string(&log).unwrap();
        let count = hits.lines().filter(|hit| *hit == point.name()).count();
        // What fails after the shim was started finds it running: it is not started again.
        let expected = if **point == Point::NodeAfterShim { 1 } else { 2 };
        assert!(count >= expected && (count == 1) == (expected == 1), "{}: {hits}", point.name());
    }
}
