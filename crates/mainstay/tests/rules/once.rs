//! A run is executed at most once, whatever becomes of its Pod, its shim and the server.

use super::*;
use k8s_openapi::api::core::v1::Pod;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;
use world::{World, core_path, on_time, path};

/// R14, R36: a run number is executed once, asking for the same again does nothing, and asking for an earlier one is
/// refused; what finished stays finished when its Pod goes and when the server starts anew.
#[tokio::test(flavor = "multi_thread")]
async fn r14_a_run_number_is_executed_at_most_once() {
    let mut world = World::new(json!({})).await;
    let keep = json!({ "workspace": { "keep": true } });
    world.script("s", "echo run >> /workspace/runs; wc -l < /workspace/runs", keep).await;
    world.first("s", "Completed").await;
    world.change("s", json!({ "run": 1, "timeout": "1h" })).await;
    world.remove(&core_path("pods", "s-1")).await;
    world.kill();
    world.restart();
    let acknowledged = |status: &Value| status["observedGeneration"] == 2;
    let status = world.seen("s", "acknowledged", acknowledged).await;
    assert_eq!((&status["phase"], &status["attempts"]), (&json!("Completed"), &json!(1)), "{status:#}");
    assert!(world.get(&core_path("pods", "s-1")).await.is_none());
    // Runs that nobody asked for one by one are skipped, not made up.
    world.change("s", json!({ "run": 5 })).await;
    let status = world.phase("s", 5, "Completed").await;
    assert_eq!(status["attempts"], 2, "{status:#}");
    assert_eq!(world.texts("s", "agent", 5).await, ["2"], "the second execution");
    let back = json!({ "spec": { "run": 4 } });
    let (code, why) = world.refused("PATCH", &path("sessions", "s"), &back).await;
    assert!(code == 422 && why.contains("spec.run") && why.contains("must not go back"), "{code} {why}");
}

/// R14, R45: a Pod that is deleted under a running session ends the run, and is not made anew.
#[tokio::test(flavor = "multi_thread")]
async fn r45_a_missing_pod_is_noticed_and_not_made_anew() {
    let world = World::new(json!({})).await;
    world.script("s", "echo started; exec sleep 1000", json!({})).await;
    world.first("s", "Running").await;
    world.remove(&core_path("pods", "s-1")).await;
    let failed = world.first("s", "Failed").await;
    assert_eq!((&failed["stoppedReason"], &failed["attempts"]), (&json!("PodDeleted"), &json!(1)), "{failed:#}");
    world.quiet("s").await;
    assert!(world.get(&core_path("pods", "s-1")).await.is_none());
}

/// R14, R45: the same with the server killed at some moment of it: what the Pod recorded is read before it goes.
#[tokio::test(flavor = "multi_thread")]
async fn r45_a_deleted_pods_record_is_read_though_the_server_dies() {
    let mut world = World::new(json!({})).await;
    // Of each the server sees another part: the order, the end, the record.
    let names = ["told", "ended", "judged"];
    for name in names {
        world.script(name, "echo started; exec sleep 1000", json!({})).await;
        world.first(name, "Running").await;
    }
    for (at, name) in names.into_iter().enumerate() {
        let pod = core_path("pods", &format!("{name}-1"));
        world.delete(&pod).await;
        match at {
            0 => {}
            1 => world.quiet(name).await,
            _ => {
                let ended =
                    |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Failed"));
                world.pod(&format!("{name}-1"), "ended", ended).await;
            }
        }
        world.kill();
        world.restart();
        let failed = world.first(name, "Failed").await;
        assert_eq!((&failed["stoppedReason"], &failed["attempts"]), (&json!("PodDeleted"), &json!(1)), "{failed:#}");
        world.until(format!("{pod} gone"), async || world.get(&pod).await.is_none()).await;
        world.quiet(name).await;
    }
}

/// R14, R15, R17: a sandbox whose shim was killed left no record: the run is lost, is said to be, and is not repeated.
#[tokio::test(flavor = "multi_thread")]
async fn r14_a_killed_shim_is_a_lost_run() {
    let mut world = World::new(json!({})).await;
    for name in ["here", "away"] {
        world.script(name, "echo started; exec sleep 1000", json!({})).await;
        world.said(name, 1, "started").await;
        world.first(name, "Running").await;
    }
    let mut shims = Vec::new();
    for name in ["here", "away"] {
        let state = std::fs::read(world.run_dir(&format!("{name}-1")).await.join("state.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        shims.push(Pid::from_raw(i32::try_from(state["shimPid"].as_i64().unwrap()).unwrap()).unwrap());
    }
    kill_process(shims[0], Signal::KILL).unwrap();
    let killed = Instant::now();
    world.first("here", "Failed").await;
    on_time("R15: the word of its end", killed, 0.5);
    world.kill();
    kill_process(shims[1], Signal::KILL).unwrap();
    world.restart();
    for name in ["here", "away"] {
        let lost = world.first(name, "Failed").await;
        assert_eq!((&lost["stoppedReason"], &lost["attempts"]), (&json!("Lost"), &json!(1)), "{name}: {lost:#}");
        let conditions = lost["conditions"].as_array().unwrap();
        let finished = conditions.iter().find(|one| one["type"] == "Finished").unwrap();
        assert!(finished["message"].as_str().unwrap().contains("without a record"), "{finished}");
        world.quiet(name).await;
        assert_eq!(world.texts(name, "agent", 1).await, ["started"]);
    }
}
