//! Stop and resume: what stays, what is handed over, what is marked.

use super::*;
use serde_json::json;
use world::World;

/// The workspace of a session that keeps it is there again after a stop; any other begins empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_workspace_survives_a_stop_and_any_other_does_not() {
    let world = World::new(json!({})).await;
    let script = "echo \"found $(cat /workspace/notes 2>/dev/null)\"; echo here > /workspace/notes; exec sleep 1000";
    world.script("kept", script, json!({ "workspace": { "keep": true } })).await;
    world.script("fresh", script, json!({})).await;
    for (name, second) in [("kept", "found here"), ("fresh", "found ")] {
        world.said(name, 1, "found ").await;
        world.change(name, json!({ "desiredState": "Stopped" })).await;
        let stopped = world.first(name, "Stopped").await;
        assert_eq!(stopped["stoppedReason"], "User", "{stopped:#}");
        world.quiet(name).await;
        world.change(name, json!({ "desiredState": "Running", "run": 2 })).await;
        world.said(name, 2, second).await;
        let running = world.phase(name, 2, "Running").await;
        assert_eq!((&running["attempts"], &running["stoppedReason"]), (&json!(2), &json!(null)), "{running:#}");
    }
}

/// R46: messages sent while a session is stopped are handed over when it is resumed, after those that were delivered.
#[tokio::test(flavor = "multi_thread")]
async fn r46_messages_sent_while_stopped_are_handed_over_on_resume() {
    let mut world = World::new(json!({})).await;
    let script = "while read -r line; do echo \"got $line\"; done";
    world.script("s", script, json!({ "prompt": "one" })).await;
    world.said("s", 1, "got one").await;
    world.send("s", "two", "two").await;
    world.said("s", 1, "got two").await;
    world.change("s", json!({ "desiredState": "Stopped" })).await;
    world.first("s", "Stopped").await;
    world.send("s", "three", "three").await;
    world.kill();
    world.restart();
    world.send("s", "four", "four").await;
    world.change("s", json!({ "desiredState": "Running", "run": 2 })).await;
    world.said("s", 2, "got four").await;
    assert_eq!(world.texts("s", "agent", 2).await, ["got three", "got four"]);
    assert_eq!(world.texts("s", "agent", 1).await, ["got one", "got two"]);
    let all = world.messages("s", "types=user").await;
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|message| message["redelivered"].is_null()), "nothing was in doubt: {all:?}");
}

/// R46: what a dead run may have seen is handed to the next one again, and is marked; nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn r46_what_a_dead_run_may_have_seen_is_marked_redelivered() {
    let world = World::new(json!({})).await;
    // The first run reads one line, then no more: what follows does not fit into the pipe.
    let script = "if [ -e /workspace/again ]; then while read -r line; do echo \"got ${#line}\"; done; fi; \
                  touch /workspace/again; read -r line; echo \"got $line\"; exec sleep 1000";
    world.script("s", script, json!({ "prompt": "one", "workspace": { "keep": true } })).await;
    world.said("s", 1, "got one").await;
    let long = "x".repeat(300_000);
    let doubtful = world.send("s", "long", &long).await;
    let beat = world::path("sessions", "s/heartbeat");
    let offered = async || world.get(&beat).await.is_some_and(|row| row["offered"] == doubtful);
    world.until("the long message offered", offered).await;
    assert_eq!(world.get(&beat).await.unwrap()["delivered"], 1);
    world.change("s", json!({ "desiredState": "Stopped" })).await;
    world.first("s", "Stopped").await;
    world.send("s", "after", "after").await;
    world.change("s", json!({ "desiredState": "Running", "run": 2 })).await;
    world.said("s", 2, "got 5").await;
    assert_eq!(world.texts("s", "agent", 2).await, ["got 300000", "got 5"]);
    let users = world.messages("s", "types=user").await;
    let marked: Vec<bool> = users.iter().map(|message| message["redelivered"] == true).collect();
    assert_eq!(marked, [false, true, false]);
}
