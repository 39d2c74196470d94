//! Every step of the agent fails once, in turn: the Pod comes to its right end all the same, and nothing is left over.

use std::process::{Command, Stdio};

use mainstay_runtime::fault::{ENV, LOG_ENV, Point, arm_from_env};
use serde_json::json;

use crate::bench::{Bench, eventually, pod};

const SESSION: &str = "/apis/mainstay.dev/v1alpha1/namespaces/web/sessions/fix";

/// A life in which each of the agent's fault points is hit. The other tests run it again in processes of its own, each
/// with a fault armed.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life() {
    arm_from_env().unwrap();
    let mut bench = Bench::new();
    let session = json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session",
        "metadata": { "name": "fix", "namespace": "web", "uid": "s-1", "deletionTimestamp": "2026-01-01T00:00:00Z" },
    });
    bench.api.place(SESSION, session);
    let mark = bench.path("mark");
    let mut wanted = pod("fix-1", &format!("echo ran >> {}; exec sleep 60", mark.display()));
    wanted["metadata"]["annotations"]["mainstay.dev/keep-workspace"] = json!("true");
    wanted["metadata"]["finalizers"] = json!([]);
    let uid = bench.api.create(wanted);
    bench.ready("fix-1").await;
    eventually("the agent process", || mark.exists().then_some(())).await;
    bench.api.change("fix-1", |pod| pod["metadata"]["annotations"]["mainstay.dev/token-renewal"] = json!("now"));
    let renewed = || std::fs::read_to_string(bench.path("node/pods").join(&uid).join("pod.json")).ok();
    eventually("a new token", || renewed()?.contains("now").then_some(())).await;
    bench.stop().await;
    bench.start();
    bench.api.change("fix-1", |pod| pod["metadata"]["annotations"]["mainstay.dev/stop"] = json!("true"));
    bench.finished("fix-1").await;
    let own = bench.path("node/pods").join(&uid);
    eventually("no socket and no token", || (!own.exists()).then_some(())).await;
    bench.api.delete("fix-1", 1);
    bench.gone("fix-1").await;
    let last = bench.api.status_writes("fix-1").pop().unwrap();
    assert_eq!((&last["phase"], &last["reason"]), (&json!("Failed"), &json!("Stopped")));
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "ran\n", "it ran once");
    assert!(!bench.run_dir(&uid).exists());
}

/// Lives once for each of the points, in processes that all run at once; what was hit in each of them.
fn lives(verb: &str, points: &[Point]) -> Vec<(Point, Vec<String>)> {
    let dir = tempfile::tempdir().unwrap();
    let lives = points.iter().map(|point| {
        let log = dir.path().join(point.name());
        let mut life = Command::new(std::env::current_exe().unwrap());
        life.args(["--exact", "faults::a_whole_life"]).env(ENV, format!("{verb}:{}@1", point.name()));
        let life = life.env(LOG_ENV, &log).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        (*point, log, life)
    });
    // All are started before the first is waited for.
    let lives: Vec<_> = lives.collect();
    let ended = lives.into_iter().map(|(point, log, life)| {
        let output = life.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb} {}: {words}", point.name());
        (point, std::fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect())
    });
    ended.collect()
}

fn count(point: Point, hits: &[String]) -> usize {
    hits.iter().filter(|hit| *hit == point.name()).count()
}

/// R1, R34.
#[test]
fn every_step_may_fail_once() {
    let points: Vec<Point> = Point::ALL.iter().copied().filter(|point| point.name().starts_with("node.")).collect();
    assert!(points.len() >= 26);
    for (point, hits) in lives("fail", &points) {
        // What fails before its effect is tried again; what fails after it may be found done.
        let expected = if point.name().starts_with("node.before-") { 2 } else { 1 };
        assert!(count(point, &hits) >= expected, "{}: {hits:?}", point.name());
    }
}

#[test]
fn every_action_may_be_repeated() {
    let ours = |point: &Point| point.can_repeat() && point.name().starts_with("node.");
    let points: Vec<Point> = Point::ALL.iter().copied().filter(ours).collect();
    assert!(points.len() >= 9);
    for (point, hits) in lives("repeat", &points) {
        // Whoever is told to stop once more may have ended by then.
        let expected = if point == Point::NodeAfterStop { 1 } else { 2 };
        assert!(count(point, &hits) >= expected, "{}: {hits:?}", point.name());
    }
}
