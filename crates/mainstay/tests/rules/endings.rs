//! How a run ended, told apart by what its sandbox recorded.

use super::*;
use serde_json::{Value, json};
use world::{World, core_path};

/// R14, R16, R17: exit code, signal and want of memory are told apart by the record and never guessed from a number, and
/// the cause is in the condition.
#[tokio::test(flavor = "multi_thread")]
async fn r17_exit_code_signal_and_want_of_memory_are_told_apart() {
    let world = World::new(json!({})).await;
    world.script("well", "exit 0", json!({})).await;
    world.script("code", "exit 3", json!({})).await;
    world.script("number", "exit 137", json!({})).await;
    world.script("signal", "kill -KILL $$", json!({})).await;
    world.script("memory", "exec tail /dev/zero", json!({ "resources": { "memory": "32Mi" } })).await;
    world.session("nothing", json!({ "command": ["/usr/bin/there-is-no-such-program"] })).await;
    let well = world.first("well", "Completed").await;
    assert_eq!((&well["exitCode"], &well["stoppedReason"]), (&json!(0), &json!("Finished")), "{well:#}");
    for (name, reason, code, signal, words) in [
        ("code", "Error", json!(3), Value::Null, "exited with code 3"),
        ("number", "Error", json!(137), Value::Null, "exited with code 137"),
        ("signal", "Error", json!(137), json!(9), "ended by signal 9"),
        ("memory", "OOMKilled", json!(137), json!(9), "out of memory"),
        ("nothing", "CreationFailed", json!(128), Value::Null, "there-is-no-such-program"),
    ] {
        let failed = world.first(name, "Failed").await;
        assert_eq!((&failed["stoppedReason"], &failed["exitCode"]), (&json!(reason), &code), "{name}: {failed:#}");
        let conditions = failed["conditions"].as_array().unwrap();
        let finished = conditions.iter().find(|one| one["type"] == "Finished").unwrap();
        assert!(finished["reason"] == reason && finished["message"].as_str().unwrap().contains(words), "{finished}");
        let pod = world.get(&core_path("pods", &format!("{name}-1"))).await.unwrap();
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&ended["reason"], &ended["signal"]), (&json!(reason), &signal), "{name}: {ended}");
    }
}

/// The log of a run that has ended is still there, whole, and after a restart as well.
#[tokio::test(flavor = "multi_thread")]
async fn logs_are_there_after_the_end() {
    let mut world = World::new(json!({})).await;
    world.script("s", "echo out; echo err >&2; printf 'no line end'", json!({})).await;
    world.first("s", "Completed").await;
    let log = world.log("s", 1).await;
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "no line end", "out"], "{log:?}");
    world.kill();
    world.restart();
    assert_eq!(world.log("s", 1).await, log);
}
