//! The phase table: what the API lets anyone write, its own controllers included.

use super::*;
use mainstay_api::phase::Phase;
use serde_json::{Value, json};
use world::{World, path};

/// R44: every move that the table does not have is refused with 422, from every phase that can be held; a status that was
/// made from an old version is refused with 409.
#[tokio::test(flavor = "multi_thread")]
async fn r44_the_api_refuses_any_other_move() {
    let world = World::new(json!({ "quota": { "running": 1 } })).await;
    let quota = world::core_path("resourcequotas", "project");
    world.until("a quota", async || world.get(&quota).await.is_some()).await;
    world.script("completed", "exit 0", json!({})).await;
    world.first("completed", "Completed").await;
    world.script("failed", "exit 3", json!({})).await;
    world.first("failed", "Failed").await;
    world.script("running", "trap '' TERM; echo deaf; while :; do sleep 1; done", json!({})).await;
    world.said("running", 1, "deaf").await;
    world.first("running", "Running").await;
    world.script("stopped", "exit 0", json!({ "desiredState": "Stopped" })).await;
    world.first("stopped", "Stopped").await;
    world.script("pending", "exit 0", json!({})).await;
    world.seen("pending", "blocked", |status| status["conditions"][0]["type"] == "Blocked").await;
    for (name, phase) in [
        ("completed", Phase::Completed),
        ("failed", Phase::Failed),
        ("running", Phase::Running),
        ("stopped", Phase::Stopped),
        ("pending", Phase::Pending),
    ] {
        only_settled_moves(&world, name, phase).await;
    }
    let old = world.get(&path("sessions", "running")).await.unwrap()["metadata"]["resourceVersion"].clone();
    world.change("running", json!({ "desiredState": "Stopped" })).await;
    // It does not hear SIGTERM, so it is Stopping for its whole grace period.
    world.first("running", "Stopping").await;
    only_settled_moves(&world, "running", Phase::Stopping).await;
    let late = json!({ "metadata": { "resourceVersion": old }, "status": { "exitCode": 1 } });
    let (code, why) = world.refused("PATCH", &path("sessions", "running/status"), &late).await;
    assert_eq!(code, 409, "{why}");
}

async fn only_settled_moves(world: &World, name: &str, from: Phase) {
    let status = path("sessions", &format!("{name}/status"));
    for to in Phase::ALL.into_iter().filter(|to| !from.may_become(*to)) {
        let (code, why) = world.refused("PATCH", &status, &json!({ "status": { "phase": to } })).await;
        let words = format!("a session that is {from} may not become {to}");
        assert!(code == 422 && why.contains(&words), "{from} -> {to}: {code} {why}");
    }
    let (code, _) = world.refused("PATCH", &status, &json!({ "status": { "phase": "Sleeping" } })).await;
    assert_eq!(code, 422);
    if from != Phase::Pending {
        let (code, why) = world.refused("PATCH", &status, &json!({ "status": null })).await;
        assert!(code == 422 && (why.contains("status.phase") || why.contains("status.run")), "{from}: {code} {why}");
    }
    let now: Value = world.get(&path("sessions", name)).await.unwrap();
    assert_eq!(now["status"]["phase"], from.as_str(), "it has not moved");
}
