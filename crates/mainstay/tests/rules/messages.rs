//! Messages either way: adaptors, followers, retention.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::*;
use serde_json::{Value, json};
use tokio::time::Instant;
use world::{World, path};

/// `stream-json`: one JSON event per line each way; what is no event is a plain message. `stopOnFinish` ends the run when
/// the agent has answered, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn stream_json_speaks_events_both_ways() {
    let world = World::new(json!({})).await;
    let script = r#"while read -r line; do printf '{"type":"assistant","got":%s}\n' "$line"; echo plain
        echo '{"type":"result","result":"done"}'; done"#;
    let agent = json!({ "adaptor": "stream-json", "command": ["/bin/sh", "-c", script] });
    world.create(&path("agents", ""), json!({ "metadata": { "name": "json" }, "spec": agent })).await;
    world.session("talks", json!({ "agent": "json", "prompt": "a \"b\"\nc" })).await;
    world.said("talks", 1, "done").await;
    let all = world.messages("talks", "").await;
    let kinds: Vec<&str> = all.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["user", "event", "agent", "event"], "{all:#?}");
    let asked = json!({ "type": "user", "message": { "role": "user", "content": "a \"b\"\nc" } });
    assert_eq!(all[1]["data"], json!({ "type": "assistant", "got": asked }));
    assert_eq!((&all[2]["text"], &all[3]["data"]["type"]), (&json!("plain"), &json!("result")));
    // It waits for more: one that is to stop when it has answered does not.
    world.session("answers", json!({ "agent": "json", "prompt": "go", "stopOnFinish": true })).await;
    let done = world.first("answers", "Completed").await;
    assert_eq!((&done["stoppedReason"], &done["exitCode"]), (&json!("Finished"), &json!(0)), "{done:#}");
    assert_eq!(world.texts("answers", "event", 1).await.last().unwrap(), "done");
    world.send("talks", "more", "more").await;
    world.heard("talks", "a second answer", |one| one["number"].as_u64() > Some(5) && one["text"] == "done").await;
    world.first("talks", "Running").await;
}

/// R50: `stopOnFinish` also ends a run whose agent goes on after its answer, and that is a success.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stays_after_its_answer_is_ended() {
    let world = World::new(json!({})).await;
    let script = "read -r line; echo '{\"type\":\"result\",\"result\":\"done\"}'; exec sleep 1000";
    let agent = json!({ "adaptor": "stream-json", "command": ["/bin/sh", "-c", script] });
    world.create(&path("agents", ""), json!({ "metadata": { "name": "stays" }, "spec": agent })).await;
    world.session("s", json!({ "agent": "stays", "prompt": "go", "stopOnFinish": true })).await;
    let done = world.first("s", "Completed").await;
    assert_eq!(done["stoppedReason"], "Finished", "{done:#}");
    assert_eq!(world.texts("s", "event", 1).await, ["done"]);
}

/// `mainstay messages SESSION -f -o json`, as a process.
fn follower(world: &World, name: &str) -> Child {
    let mut command = world.server.command(&["messages", name, "-n", world::TEAM, "-f", "-o", "json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// R46, R47: two followers both get every message once and in order, across the server's death.
#[tokio::test(flavor = "multi_thread")]
async fn r47_two_followers_see_all_in_order_across_a_restart() {
    let mut world = World::new(json!({})).await;
    let script =
        "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo line $i; sleep 0.05; done; read -r line; echo got $line";
    world.script("s", script, json!({})).await;
    let followers = [follower(&world, "s"), follower(&world, "s")];
    world.said("s", 1, "line 5").await;
    world.kill();
    world.restart();
    world.send("s", "late", "the end").await;
    let collected = followers.map(|mut child| {
        std::thread::spawn(move || {
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let all: Vec<Value> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
            assert!(child.wait().unwrap().success());
            all
        })
    });
    world.first("s", "Completed").await;
    let [one, two] = collected.map(|thread| tokio::task::block_in_place(|| thread.join().unwrap()));
    assert_eq!(one, two);
    let numbers: Vec<u64> = one.iter().map(|message| message["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let said: Vec<&str> = one
        .iter()
        .filter(|message| message["type"] == "agent")
        .map(|message| message["text"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = (1..=60).map(|line| format!("line {line}")).chain(["got the end".to_owned()]).collect();
    assert_eq!(said, expected);
}

/// Retention is bounded, and a reader of what is gone is told so: never more than 100,000 messages of a session are kept,
/// and no less than nine tenths of them.
#[tokio::test(flavor = "multi_thread")]
async fn old_messages_go_and_leave_an_explicit_gap() {
    let world = World::new(json!({})).await;
    world.script("s", "exec sleep 1000", json!({ "prompt": "first" })).await;
    let messages = path("sessions", "s/messages");
    let (mut sent, mut last) = (0, 0);
    while last < 101_000 {
        let batch: Vec<Value> =
            (sent..sent + 256).map(|id| json!({ "id": format!("m{id}"), "type": "user", "text": "x" })).collect();
        last = world.create(&messages, json!({ "messages": batch })).await["last"].as_u64().unwrap();
        sent += 256;
    }
    world.until("old messages gone", async || world.messages("s", "limit=1").await[0]["gap"].is_object()).await;
    let read = world.messages("s", "limit=1").await;
    let to = read[0]["gap"]["to"].as_u64().unwrap();
    assert_eq!(read[0], json!({ "gap": { "from": 1, "to": to } }));
    assert_eq!(read[1]["number"], to + 1, "what follows the gap");
    assert!((90_000..=100_000).contains(&(last - to)), "{} of {last} are kept", last - to);
    let after = world.messages("s", &format!("after={}", last - 1)).await;
    assert_eq!(after.len(), 1, "a reader of what is kept sees no gap: {after:?}");
    // The prompt has a name that the platform gave it; a user's message of that name is another.
    assert_eq!(world.send("s", "prompt-1", "mine").await, last + 1);
    // An id is remembered as long as its message.
    let again = json!({ "messages": [{ "id": format!("m{}", sent - 1), "type": "user", "text": "x" }] });
    assert_eq!(
        world.create(&messages, again).await["messages"][0],
        json!({ "id": format!("m{}", sent - 1), "number": last, "duplicate": true })
    );
}

/// A session that talks without end and without a pause: what is kept of it is bounded, the disk stops growing, it loses
/// no line of what it may keep, and a neighbour talks as if it was alone.
/// R8.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_talks_without_end_fills_no_disk_and_holds_up_no_neighbour() {
    const LINE: u64 = 10_000;
    let world = World::new(json!({})).await;
    world.script("quiet", "while read -r line; do echo \"got $line\"; done", json!({})).await;
    world.script("loud", "yes $(head -c 9999 /dev/zero | tr '\\0' x)", json!({})).await;
    let database = |name: &str| std::fs::metadata(world.server.data_dir().join(name)).unwrap().len() >> 20;
    let (mut asked, mut gone, mut strides) = (0, 0, 0);
    let until = Instant::now() + Duration::from_secs(90);
    while strides < 3 {
        asked += 1;
        let began = Instant::now();
        world.send("quiet", &asked.to_string(), &asked.to_string()).await;
        world.said("quiet", 1, &format!("got {asked}")).await;
        assert!(began.elapsed() < Duration::from_secs(5), "the neighbour waited {:?}", began.elapsed());
        let to =
            world.messages("loud", "limit=1").await.first().map_or(0, |one| one["gap"]["to"].as_u64().unwrap_or(0));
        strides += u64::from(to > gone);
        gone = to;
        assert!(Instant::now() < until, "{gone} messages are gone, in {strides} strides");
    }
    let (file, log) = (database("state.db"), database("state.db-wal"));
    assert!(file < 128 && log < 128, "the database takes {file} MiB and its log {log} MiB");
    // What is there is the newest, line by line.
    let kept = world.messages("loud", "").await;
    let said: Vec<&str> =
        kept.iter().filter(|one| one["type"] == "agent").map(|one| one["id"].as_str().unwrap()).collect();
    let first: u64 = said[0].strip_prefix("r1-stdout-").unwrap().parse().unwrap();
    let wanted = (0..said.len() as u64).map(|at| format!("r1-stdout-{}", first + at * LINE));
    assert!(said.len() > 5_000 && wanted.eq(said), "{} messages from {first} on", kept.len());
    world.change("loud", json!({ "desiredState": "Stopped" })).await;
    world.first("loud", "Stopped").await;
    world.heard("loud", "its end", |one| one["data"]["event"] == "exited").await;
}
