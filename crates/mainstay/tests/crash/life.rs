//! Whole lives of sessions. Each checks itself: its end, that its agent ran once a run, and its messages.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mainstay_api::phase::Phase;
use mainstay_testkit::crash::client::Answer;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::talk;
use crate::world::World;

/// Sessions that live at one time, so that some are at every step whenever something happens.
const AT_ONCE: usize = 16;
/// Longest time for all of them.
const PATIENCE: Duration = Duration::from_mins(4);

/// How a session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Works and exits with 0.
    Completes,
    /// Works and exits with 3.
    Fails,
    /// Is stopped at work.
    Stopped,
    /// Is deleted at work.
    Deleted,
    /// Is deleted as soon as it was made.
    DeletedEarly,
    /// Completes twice, in a workspace that it keeps.
    Resumed,
    /// Answers each message.
    Talks,
    /// Is stopped, gets messages, and answers them in its next run.
    TalksOn,
    /// The same in a workspace that it keeps, with a new token on the way; then it is deleted, and a Pod that was made by
    /// hand lives beside it. It passes every fault point.
    Whole,
}

impl Life {
    pub(crate) const ALL: [Self; 9] = [
        Self::Completes,
        Self::Fails,
        Self::Stopped,
        Self::Deleted,
        Self::DeletedEarly,
        Self::Resumed,
        Self::Talks,
        Self::TalksOn,
        Self::Whole,
    ];

    /// Lets `count` sessions of all sorts live, and their project end.
    pub(crate) async fn live_all(world: &World, count: usize) -> anyhow::Result<()> {
        let lives = (0..count).map(|at| {
            let life = Self::ALL[at % Self::ALL.len()];
            async move { life.live(world, &format!("s{at}-{}", format!("{life:?}").to_lowercase())).await }
        });
        let all = stream::iter(lives).buffer_unordered(AT_ONCE).try_collect::<()>();
        timeout(PATIENCE, all).await.context("not all sessions came to their end in time")??;
        world.end().await
    }

    /// Lives it.
    pub(crate) async fn live(self, world: &World, name: &str) -> anyhow::Result<()> {
        let lived = match self {
            Self::Completes => finishes(world, name, 0).await,
            Self::Fails => finishes(world, name, 3).await,
            Self::Stopped => stopped(world, name).await,
            Self::Deleted => deleted(world, name).await,
            Self::DeletedEarly => deleted_early(world, name).await,
            Self::Resumed => resumed(world, name).await,
            Self::Talks => talk::talks(world, name).await,
            Self::TalksOn => talk::talks_on(world, name, false).await,
            Self::Whole => whole(world, name).await,
        };
        let lived = match lived {
            Ok(()) => world.quiet(name).await,
            failed => failed,
        };
        lived.with_context(|| format!("session {name}, which {self:?}"))
    }
}

/// Says a word of its own: another execution would say another.
const BEGINS: &str = "cat /proc/sys/kernel/random/uuid; echo started";

/// Starts, and works until it is ended.
pub(crate) const WAITS: &str = "echo started; exec sleep 600";

async fn finishes(world: &World, name: &str, code: i32) -> anyhow::Result<()> {
    let script = format!("{BEGINS}; for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done; exit {code}");
    world.create(name, &script, json!({ "prompt": "begin" })).await?;
    let phase = if code == 0 { Phase::Completed } else { Phase::Failed };
    let session = world.phase(name, 1, phase).await?;
    let status = session.status.unwrap_or_default();
    ensure!((status.exit_code, status.attempts) == (Some(code), 1), "{status:?}");
    let reason = if code == 0 { "Finished" } else { "Error" };
    ensure!(status.stopped_reason.as_deref() == Some(reason), "{status:?}");
    let said = world.said(name, 1).await?;
    let lines = ["started", "line 1", "line 2", "line 3", "line 4", "line 5"];
    ensure!(said.len() == 7 && said.iter().skip(1).eq(lines), "it said {said:?}");
    let messages = world.messages(name).await?;
    ensure!(messages.iter().filter(|one| one.kind == "user" && one.text == "begin").count() == 1, "{messages:?}");
    ensure!(messages.last().is_some_and(|last| last.kind == "system"), "{messages:?}");
    let log = world.log(name, 1).await?.done()?;
    ensure!(log.lines().eq(&said), "it said {said:?} and logged {log:?}");
    Ok(())
}

async fn stopped(world: &World, name: &str) -> anyhow::Result<()> {
    world.create(name, WAITS, json!({})).await?;
    world.heard(name, 1, "started").await?;
    world.change(name, &json!({ "desiredState": "Stopped" })).await?;
    let status = world.phase(name, 1, Phase::Stopped).await?.status.unwrap_or_default();
    ensure!((status.attempts, status.stopped_reason.as_deref()) == (1, Some("User")), "{status:?}");
    ran_once(world, name, 1).await
}

async fn deleted(world: &World, name: &str) -> anyhow::Result<()> {
    world.create(name, WAITS, json!({})).await?;
    world.phase(name, 1, Phase::Running).await?;
    delete(world, name).await
}

async fn deleted_early(world: &World, name: &str) -> anyhow::Result<()> {
    world.create(name, WAITS, json!({})).await?;
    delete(world, name).await
}

async fn whole(world: &World, name: &str) -> anyhow::Result<()> {
    talk::talks_on(world, name, true).await?;
    delete(world, name).await?;
    by_hand(world, name).await
}

/// A Pod without a session, and without the node agent's finalizer.
async fn by_hand(world: &World, name: &str) -> anyhow::Result<()> {
    let name = format!("{name}-by-hand");
    world.create_pod(&name, "echo started").await?;
    let ended = |pod: Option<&Value>| pod.is_some_and(|pod| pod["status"]["phase"] == "Succeeded");
    world.until_pod(&name, "Succeeded", ended).await?;
    let log = world.log(&name, 1).await?.done()?;
    ensure!(log == "started\n", "{name} logged {log:?}");
    world.delete_pod(&name).await?;
    world.until_pod(&name, "gone", |pod| pod.is_none()).await
}

async fn delete(world: &World, name: &str) -> anyhow::Result<()> {
    world.client.delete(&World::path(name, "")).await?;
    world.gone(name).await?;
    let messages = world.client.get(&World::path(name, "/messages")).await?;
    ensure!(matches!(messages, Answer::Refused(404, _)), "{messages:?}");
    Ok(())
}

async fn resumed(world: &World, name: &str) -> anyhow::Result<()> {
    let script = "echo ran >> /workspace/ran; echo run $(wc -l < /workspace/ran); sleep 0.2";
    world.create(name, script, json!({ "workspace": { "keep": true } })).await?;
    for run in [1, 2, 3] {
        if run > 1 {
            world.change(name, &json!({ "run": run })).await?;
        }
        let status = world.phase(name, run, Phase::Completed).await?.status.unwrap_or_default();
        ensure!(status.attempts == run, "{status:?}");
        let said = world.said(name, run).await?;
        ensure!(said == [format!("run {run}")], "run {run} said {said:?}");
    }
    Ok(())
}

/// A run's agent said once that it started.
pub(crate) async fn ran_once(world: &World, name: &str, run: u64) -> anyhow::Result<()> {
    let said = world.said(name, run).await?;
    ensure!(said.iter().filter(|said| *said == "started").count() == 1, "run {run} said {said:?}");
    Ok(())
}
