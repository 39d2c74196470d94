//! Sessions that are talked to while the server dies.

use anyhow::ensure;
use mainstay_api::phase::Phase;
use serde_json::json;

use crate::life::ran_once;
use crate::world::World;

/// Answers each line, and ends at `end`.
pub(crate) const ECHOES: &str =
    "echo started; while read -r line; do echo got $line; test \"$line\" = end && exit 0; done";

/// Sends `count` messages from this one on, each under an id of its own; checks that a repetition is the same message.
async fn send(world: &World, name: &str, from: u64, count: u64) -> anyhow::Result<()> {
    let mut last = 0;
    for at in from..from + count {
        let number = world.send(name, &format!("id-{at}"), &format!("word {at}")).await?;
        ensure!(number > last, "message {at} got number {number} after {last}");
        ensure!(world.send(name, &format!("id-{at}"), "again").await? == number, "message {at} was taken twice");
        last = number;
    }
    Ok(())
}

/// Each of these words was accepted once, and answered: once, or marked as what a dead run may have seen.
async fn answered(world: &World, name: &str, words: u64) -> anyhow::Result<()> {
    let messages = world.messages(name).await?;
    for at in 1..=words {
        let (text, answer) = (format!("word {at}"), format!("got word {at}"));
        let sent: Vec<_> = messages.iter().filter(|one| one.kind == "user" && one.text == text).collect();
        ensure!(sent.len() == 1 && sent[0].id == format!("id-{at}"), "{text} is there {} times", sent.len());
        let answers = messages.iter().filter(|one| one.kind == "agent" && one.text == answer).count();
        let marked = sent[0].redelivered;
        ensure!(answers == 1 || (marked && answers > 1), "{text} was answered {answers} times (redelivered: {marked})");
    }
    Ok(())
}

pub(crate) async fn talks(world: &World, name: &str) -> anyhow::Result<()> {
    world.create(name, ECHOES, json!({ "prompt": "hello" })).await?;
    send(world, name, 1, 6).await?;
    world.heard(name, 1, "got word 6").await?;
    send(world, name, 7, 6).await?;
    world.send(name, "end", "end").await?;
    let status = world.phase(name, 1, Phase::Completed).await?.status.unwrap_or_default();
    ensure!(status.attempts == 1, "{status:?}");
    let said = world.said(name, 1).await?;
    ensure!(said.iter().filter(|said| *said == "got hello").count() == 1, "{said:?}");
    ensure!(said.last().is_some_and(|last| last == "got end"), "{said:?}");
    ran_once(world, name, 1).await?;
    answered(world, name, 12).await
}

pub(crate) async fn talks_on(world: &World, name: &str, keep: bool) -> anyhow::Result<()> {
    let counts = format!("echo ran >> /workspace/ran; echo run $(wc -l < /workspace/ran); {ECHOES}");
    world.create(name, &counts, json!({ "workspace": { "keep": keep } })).await?;
    send(world, name, 1, 3).await?;
    world.heard(name, 1, "got word 3").await?;
    world.change(name, &json!({ "desiredState": "Stopped" })).await?;
    world.phase(name, 1, Phase::Stopped).await?;
    send(world, name, 4, 3).await?;
    world.change(name, &json!({ "desiredState": "Running", "run": 2 })).await?;
    world.heard(name, 2, "got word 6").await?;
    if keep {
        world.renew_token(name, 2).await?;
    }
    world.send(name, "end", "end").await?;
    world.phase(name, 2, Phase::Completed).await?;
    for run in [1, 2] {
        ran_once(world, name, run).await?;
        let (said, expected) = (world.said(name, run).await?, format!("run {}", if keep { run } else { 1 }));
        ensure!(said.first() == Some(&expected), "run {run} was to say {expected:?}: {said:?}");
    }
    answered(world, name, 6).await
}
