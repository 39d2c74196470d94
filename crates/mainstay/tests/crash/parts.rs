//! Shims and supervisors are killed, with the server at work or dead: their sessions end as they should, and nobody else
//! notices.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use mainstay_api::phase::Phase;
use mainstay_node::launch::RunState;
use mainstay_node::shim::record;
use mainstay_testkit::crash::start;
use mainstay_testkit::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::EXE;
use crate::talk::ECHOES;
use crate::world::{World, close, rounds, with_log};

/// A wait for a process of the test's machine.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(1);

/// Sandboxes of which a part is killed as soon as it is known.
const EARLY: usize = 4;

/// Counts its executions in a workspace that is kept, and waits.
const COUNTS: &str = "echo ran >> /workspace/ran; echo run $(wc -l < /workspace/ran); echo started; exec sleep 600";
/// The same, and is not ended by SIGTERM.
const STUBBORN: &str = "trap '' TERM; echo ran >> /workspace/ran; echo started; while :; do sleep 1; done";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Shim,
    Supervisor,
}

impl Part {
    const ALL: [Self; 2] = [Self::Shim, Self::Supervisor];

    /// Why its session has failed.
    const fn reason(self) -> &'static str {
        match self {
            // It alone knows how a sandbox ended.
            Self::Shim => "Lost",
            Self::Supervisor => "Error",
        }
    }

    fn session(self, when: &str, number: usize) -> String {
        format!("{self:?}-{when}-{number}").to_lowercase()
    }

    fn kill(self, state: &RunState) -> anyhow::Result<()> {
        let pid = match self {
            Self::Shim => Some(state.shim_pid),
            Self::Supervisor => state.init_pid,
        };
        let pid = pid.and_then(Pid::from_raw).with_context(|| format!("the pid of the {self:?} in {state:?}"))?;
        kill_process(pid, Signal::KILL).with_context(|| format!("kill the {self:?}"))
    }
}

/// What is known of a sandbox, once it is enough to kill this part of it.
async fn state(world: &World, runs: &Path, name: &str, run: u64, part: Part) -> anyhow::Result<RunState> {
    let dir: PathBuf = runs.join(world.pod_uid(name, run).await?);
    let until = Instant::now() + PATIENCE;
    loop {
        match record::read_state(&dir)? {
            Some(state) if part == Part::Shim || state.init_pid.is_some() => return Ok(state),
            state => ensure!(Instant::now() < until, "{name} has no {part:?}: {state:?}"),
        }
        sleep(PAUSE).await;
    }
}

/// The session failed for this reason, its agent is dead and is not run again, but in another run.
async fn failed(world: &World, name: &str, reason: &str, ran: u64) -> anyhow::Result<()> {
    let status = world.phase(name, 1, Phase::Failed).await?.status.unwrap_or_default();
    ensure!((status.stopped_reason.as_deref(), status.attempts) == (Some(reason), 1), "{name}: {status:?}");
    world.quiet(name).await?;
    world.change(name, &json!({ "run": 2 })).await?;
    world.heard(name, 2, &format!("run {}", ran + 1)).await?;
    world.change(name, &json!({ "desiredState": "Stopped" })).await?;
    let status = world.phase(name, 2, Phase::Stopped).await?.status.unwrap_or_default();
    ensure!(status.attempts == 2, "{name}: {status:?}");
    let said = world.said(name, 1).await?;
    ensure!(said.iter().filter(|said| *said == "started").count() as u64 <= ran, "{name} said {said:?}");
    world.quiet(name).await
}

/// Killed while its agent works.
async fn at_work(world: &World, runs: &Path, part: Part, round: usize) -> anyhow::Result<()> {
    let name = part.session("at-work", round);
    world.create(&name, COUNTS, json!({ "workspace": { "keep": true } })).await?;
    world.heard(&name, 1, "started").await?;
    part.kill(&state(world, runs, &name, 1, part).await?)?;
    failed(world, &name, part.reason(), 1).await
}

/// Killed as soon as it is known: what has begun is not begun again, whether or not the agent was executed.
async fn at_once(world: &World, runs: &Path, part: Part, number: usize) -> anyhow::Result<()> {
    let name = part.session("at-once", number);
    world.create(&name, COUNTS, json!({})).await?;
    part.kill(&state(world, runs, &name, 1, part).await?)?;
    let status = world.phase(&name, 1, Phase::Failed).await?.status.unwrap_or_default();
    let expected = (Some(part.reason()), 1);
    ensure!((status.stopped_reason.as_deref(), status.attempts) == expected, "{name}: {status:?}");
    let said = world.said(&name, 1).await?;
    ensure!(said.len() <= 2 && !said.contains(&"run 2".to_owned()), "{name} said {said:?}");
    world.quiet(&name).await
}

/// Killed while its session is being stopped: that is what the session came to.
async fn at_stop(world: &World, runs: &Path, part: Part, round: usize) -> anyhow::Result<()> {
    let name = part.session("at-stop", round);
    world.create(&name, STUBBORN, json!({})).await?;
    world.heard(&name, 1, "started").await?;
    world.change(&name, &json!({ "desiredState": "Stopped" })).await?;
    world.phase(&name, 1, Phase::Stopping).await?;
    part.kill(&state(world, runs, &name, 1, part).await?)?;
    let status = world.phase(&name, 1, Phase::Stopped).await?.status.unwrap_or_default();
    ensure!(status.stopped_reason.as_deref() == Some("User"), "{name}: {status:?}");
    world.quiet(&name).await
}

/// Killed while its session is being deleted.
async fn at_deletion(world: &World, runs: &Path, part: Part, round: usize) -> anyhow::Result<()> {
    let name = part.session("at-deletion", round);
    world.create(&name, STUBBORN, json!({ "workspace": { "keep": true } })).await?;
    world.heard(&name, 1, "started").await?;
    let known = state(world, runs, &name, 1, part).await?;
    world.client.delete(&World::path(&name, "")).await?;
    part.kill(&known)?;
    world.gone(&name).await?;
    world.quiet(&name).await
}

/// Goes on, whatever happens to others: talks until it is told that they are through.
async fn neighbour(world: &World) -> anyhow::Result<()> {
    let said = world.said("neighbour", 1).await?;
    ensure!(said == ["started", "got before", "got after", "got end"], "the neighbour said {said:?}");
    world.phase("neighbour", 1, Phase::Completed).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_or_supervisor_is_its_own_sessions_end_only() -> anyhow::Result<()> {
    let (server, ready) = start(Server::idle(EXE)?).await?;
    ready?;
    let (runs, serve_log) = (server.data_dir().join("node/run"), server.scratch().join("serve.log"));
    let killed = async {
        let world = World::new(&server).await?;
        world.create("neighbour", ECHOES, json!({})).await?;
        world.send("neighbour", "before", "before").await?;
        world.heard("neighbour", 1, "got before").await?;
        let (world, runs) = (&world, runs.as_path());
        for round in 0..rounds() {
            try_join_all(Part::ALL.map(|part| async move {
                let early = (0..EARLY).map(|number| at_once(world, runs, part, round * EARLY + number));
                let early = async { try_join_all(early).await.map(drop) };
                let (work, stop) = (at_work(world, runs, part, round), at_stop(world, runs, part, round));
                tokio::try_join!(early, work, stop, at_deletion(world, runs, part, round)).map(drop)
            }))
            .await?;
        }
        world.send("neighbour", "after", "after").await?;
        world.send("neighbour", "end", "end").await?;
        world.heard("neighbour", 1, "got end").await?;
        neighbour(world).await?;
        world.end().await
    };
    with_log(killed.await, &serve_log)?;
    with_log(close(server).await, &serve_log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_or_supervisor_that_was_killed_while_the_server_was_dead_is_found_so() -> anyhow::Result<()> {
    let (server, ready) = start(Server::idle(EXE)?).await?;
    ready?;
    let (runs, serve_log) = (server.data_dir().join("node/run"), server.scratch().join("serve.log"));
    let world = with_log(World::new(&server).await, &serve_log)?;
    let known = async {
        let mut known = Vec::new();
        for part in Part::ALL {
            let name = format!("{part:?}").to_lowercase();
            world.create(&name, COUNTS, json!({ "workspace": { "keep": true } })).await?;
            world.heard(&name, 1, "started").await?;
            known.push((part, name.clone(), state(&world, &runs, &name, 1, part).await?));
        }
        world.create("neighbour", ECHOES, json!({})).await?;
        world.send("neighbour", "before", "before").await?;
        world.heard("neighbour", 1, "got before").await?;
        anyhow::Ok(known)
    };
    let known = with_log(known.await, &serve_log)?;
    let mut server = server;
    server.kill9()?;
    for (part, name, state) in &known {
        part.kill(state)?;
        world.quiet(name).await?;
    }
    let (server, ready) = start(server).await?;
    ready?;
    let found = async {
        for (part, name, _) in &known {
            failed(&world, name, part.reason(), 1).await?;
        }
        world.send("neighbour", "after", "after").await?;
        world.send("neighbour", "end", "end").await?;
        world.heard("neighbour", 1, "got end").await?;
        neighbour(&world).await?;
        world.end().await
    };
    with_log(found.await, &serve_log)?;
    with_log(close(server).await, &serve_log)
}
