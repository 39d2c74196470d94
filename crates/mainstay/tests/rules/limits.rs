//! Limits of time: when they act, with which reason, and with what dead.

use std::time::Duration;

use super::*;
use serde_json::{Value, json};
use tokio::time::Instant;
use world::{World, core_path, on_time, path};

/// Does nothing until it is ended.
const IDLES: &str = "exec sleep 1000";

/// The session ends in this way so many seconds after it was created.
async fn stops(world: &World, name: &str, since: Instant, due: f64, reason: &str) {
    let stopping = |status: &Value| status["phase"] == "Stopping" || status["phase"] == "Stopped";
    let status = world.seen(name, "stopped", stopping).await;
    on_time(name, since, due);
    assert_eq!(status["stoppedReason"], reason, "{name}: {status:#}");
    let ended = world.first(name, "Stopped").await;
    assert_eq!(ended["stoppedReason"], reason, "{name}: {ended:#}");
    assert!(ended["completionTime"].is_string(), "{ended:#}");
}

/// R13, R29, R50: each limit acts within a second of its due time, a message either way and a tool call in progress are
/// activity, 0 is never, and the reasons are kept apart.
#[tokio::test(flavor = "multi_thread")]
async fn r13_limits_act_on_time_and_their_reasons_are_kept_apart() {
    let world = World::new(json!({ "sessionDefaults": { "inactivityTimeout": "3s" } })).await;
    let thinker = json!({ "adaptor": "stream-json", "command": ["/bin/sh", "-c",
        "read -r line; sleep 4; echo '{\"type\":\"result\",\"result\":\"thought\"}'; exec sleep 1000"] });
    world.create(&path("agents", ""), json!({ "metadata": { "name": "thinker" }, "spec": thinker })).await;
    let began = Instant::now();
    world.script("timed", IDLES, json!({ "timeout": "4s", "inactivityTimeout": 0 })).await;
    world.script("idle", IDLES, json!({})).await;
    world.script("talker", "sleep 2; echo one; sleep 2; echo two; exec sleep 1000", json!({})).await;
    world.script("asked", IDLES, json!({})).await;
    world.script("never", IDLES, json!({ "inactivityTimeout": 0 })).await;
    world.script("cut", IDLES, json!({ "timeout": "1h", "inactivityTimeout": "1h" })).await;
    world.first("cut", "Running").await;
    let (code, why) = world.refused("PATCH", &path("sessions", "cut"), &json!({ "spec": { "timeout": "2h" } })).await;
    assert!(code == 422 && why.contains("spec.timeout: Forbidden: the sandbox of the present run"), "{code} {why}");
    world.change("cut", json!({ "timeout": "4s" })).await;
    world.session("thinker", json!({ "agent": "thinker", "prompt": "think", "inactivityTimeout": 2 })).await;
    let talks = async {
        world.said("talker", 1, "one").await;
        world.send("asked", "1", "are you there?").await;
        let asked = Instant::now();
        world.said("talker", 1, "two").await;
        let said = Instant::now();
        tokio::join!(
            stops(&world, "asked", asked, 3.0, "Inactivity"),
            stops(&world, "talker", said, 3.0, "Inactivity")
        );
    };
    let thinks = async {
        world.said("thinker", 1, "thought").await;
        on_time("the thought", began, 4.0);
        stops(&world, "thinker", Instant::now(), 2.0, "Inactivity").await;
    };
    tokio::join!(
        stops(&world, "timed", began, 4.0, "Timeout"),
        stops(&world, "cut", began, 4.0, "Timeout"),
        stops(&world, "idle", began, 3.0, "Inactivity"),
        talks,
        thinks
    );
    world.first("never", "Running").await;
    world.change("never", json!({ "desiredState": "Stopped" })).await;
    let stopped = world.first("never", "Stopped").await;
    assert_eq!(stopped["stoppedReason"], "User", "{stopped:#}");
}

/// R13, R21: limits hold across a server's death; the shim's own deadline holds while it is dead.
#[tokio::test(flavor = "multi_thread")]
async fn r13_limits_hold_with_the_control_plane_dead_and_across_its_restart() {
    let mut world = World::new(json!({ "sessionDefaults": { "inactivityTimeout": 0 } })).await;
    let began = Instant::now();
    world.script("dead", IDLES, json!({ "timeout": 3 })).await;
    world.script("timed", IDLES, json!({ "timeout": 8 })).await;
    world.script("idle", IDLES, json!({ "inactivityTimeout": 8 })).await;
    for name in ["dead", "timed", "idle"] {
        world.first(name, "Running").await;
    }
    world.kill();
    world.quiet("dead").await;
    on_time("the shim's deadline", began, 3.0);
    assert!(!world.agents("timed").is_empty() && !world.agents("idle").is_empty());
    world.restart();
    let ended = world.first("dead", "Stopped").await;
    assert_eq!(ended["stoppedReason"], "Timeout", "{ended:#}");
    tokio::join!(stops(&world, "timed", began, 8.0, "Timeout"), stops(&world, "idle", began, 8.0, "Inactivity"));
}

/// R13: what happened while the server was dead is no inactivity, though nobody could say it.
#[tokio::test(flavor = "multi_thread")]
async fn r13_what_was_done_while_the_server_was_dead_counts_as_activity() {
    let mut world = World::new(json!({ "sessionDefaults": { "inactivityTimeout": 2 } })).await;
    world.script("s", "sleep 4; echo alive; exec sleep 1000", json!({})).await;
    world.first("s", "Running").await;
    let log = world.run_dir("s-1").await.join("log/0.log");
    world.kill();
    let alive = async || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("alive"));
    world.until("a word in its log", alive).await;
    world.restart();
    world.said("s", 1, "alive").await;
    stops(&world, "s", Instant::now(), 2.0, "Inactivity").await;
}

/// R17, R45: a session whose Pod does not come to life says why, and is failed at its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn r45_creation_has_a_deadline() {
    let world = World::new(json!({})).await;
    // The node agent's directory of Pods is a file: nothing can be prepared in it.
    let pods = world.server.data_dir().join("node/pods");
    std::fs::remove_dir_all(&pods).unwrap();
    std::fs::write(&pods, "in the way").unwrap();
    world.script("stuck", IDLES, json!({})).await;
    let waiting = world.pod("stuck-1", "told why", |pod| {
        pod.status.as_ref().is_some_and(|status| status.message.as_ref().is_some_and(|why| !why.is_empty()))
    });
    let status = waiting.await.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Pending"), "{status:?}");
    assert!(status.message.as_ref().unwrap().contains("lay out the Pod's directories"), "{status:?}");
    world.first("stuck", "Creating").await;
    // As if it had begun a minute ago.
    let earlier = mainstay_runtime::Clock::system().now().checked_sub(Duration::from_secs(58)).unwrap().to_string();
    let began = Instant::now();
    world.patch(&path("sessions", "stuck/status"), &json!({ "status": { "startTime": earlier } })).await;
    let failed = world.first("stuck", "Failed").await;
    on_time("the creation deadline", began, 2.0);
    assert_eq!(failed["stoppedReason"], "CreationDeadlineExceeded", "{failed:#}");
    std::fs::remove_file(&pods).unwrap();
    std::fs::create_dir(&pods).unwrap();
    world.change("stuck", json!({ "run": 2, "command": ["true"] })).await;
    world.phase("stuck", 2, "Completed").await;
}

/// A project's quota of running sessions: the next one waits, says so, and begins when one ends.
/// R50.
#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_quota_keeps_sessions_waiting() {
    let world = World::new(json!({ "quota": { "running": 1 } })).await;
    world.until("a quota", async || world.get(&core_path("resourcequotas", "project")).await.is_some()).await;
    world.script("first", "read -r line; exit 0", json!({})).await;
    world.first("first", "Running").await;
    world.script("second", "echo here; read -r line", json!({ "prompt": "go on" })).await;
    world.script("third", IDLES, json!({})).await;
    let blocked = |status: &Value| {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let blocked = conditions.into_iter().find(|one| one["type"] == "Blocked");
        blocked.is_some_and(|one| one["status"] == "True" && one["reason"] == "QuotaExceeded")
    };
    for name in ["second", "third"] {
        let status = world.seen(name, "blocked", blocked).await;
        assert_eq!((&status["phase"], &status["attempts"]), (&json!("Pending"), &json!(0)), "{status:#}");
    }
    // One that waits can be stopped, and takes no turn.
    world.change("third", json!({ "desiredState": "Stopped" })).await;
    let third = world.first("third", "Stopped").await;
    assert!(!blocked(&third), "{third:#}");
    let prompt = json!({ "spec": { "prompt": "something else" } });
    let (code, why) = world.refused("PATCH", &path("sessions", "second"), &prompt).await;
    assert!(code == 422 && why.contains("spec.prompt: Forbidden: it is user message 1 already"), "{code} {why}");
    world.script("fourth", IDLES, json!({})).await;
    world.seen("fourth", "blocked", blocked).await;
    world.remove(&path("sessions", "fourth")).await;
    world.send("first", "end", "end").await;
    world.first("first", "Completed").await;
    let began = Instant::now();
    let second = world.first("second", "Completed").await;
    assert!(began.elapsed().as_secs() < 3, "it began {:?} after the first ended", began.elapsed());
    assert!(!blocked(&second), "{second:#}");
    assert_eq!(world.texts("second", "agent", 1).await, ["here"]);
}
