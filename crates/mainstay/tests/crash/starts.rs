//! The server is killed while it starts, and told to stop while sessions work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mainstay_api::phase::Phase;
use mainstay_runtime::Tasks;
use mainstay_testkit::crash::{arm, hits, is_sigkill, note, start};
use mainstay_testkit::server::Server;
use serde_json::json;
use tokio::time::Instant;

use crate::EXE;
use crate::life::Life;
use crate::talk::ECHOES;
use crate::world::{World, close, rounds, with_log};

/// Servers that start at one time.
const AT_ONCE: usize = 4;
/// Within its grace period, with clients that watch and follow.
const CLEAN_END: Duration = Duration::from_secs(15);
/// How often a server is told to stop while sessions live.
const STOPS: usize = 10;

/// The server starts, and a session lives on it.
async fn works(server: Server) -> anyhow::Result<()> {
    let (server, ready) = start(server).await?;
    ready?;
    let world = World::new(&server).await?;
    Life::Whole.live(&world, "first").await?;
    world.end().await?;
    close(server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_at_any_commit_is_made_good_by_the_next() -> anyhow::Result<()> {
    let mut server = Server::idle(EXE)?;
    let log = server.scratch().join("faults");
    arm(&mut server, Some("count"), Some(&log));
    let (server, ready) = start(server).await?;
    ready?;
    let commits: u64 = hits(&log)?.values().sum();
    close(server).await?;
    let starts = stream::iter((1..=commits).map(killed_at)).buffer_unordered(AT_ONCE);
    let died: Vec<bool> = starts.try_collect().await?;
    let died = died.into_iter().filter(|died| *died).count() as u64;
    note(&format!("{died} of {commits} first starts died"));
    ensure!(died * 4 > commits * 3, "only {died} of {commits} first starts died");
    Ok(())
}

/// A first start that dies at the `nth` fault point, if it comes to it; a second one that does not.
async fn killed_at(nth: u64) -> anyhow::Result<bool> {
    let mut server = Server::idle(EXE)?;
    arm(&mut server, Some(&format!("kill@{nth}")), None);
    let (mut server, ready) = start(server).await?;
    let died = ready.is_err();
    if died {
        let status = server.wait()?;
        ensure!(is_sigkill(status), "armed at {nth}, it ended with {status}:\n{}", server.log_text());
    } else {
        server.kill9()?;
    }
    arm(&mut server, None, None);
    // A few in full; of the others, that they start.
    if nth.is_multiple_of(8) {
        works(server).await.with_context(|| format!("after a kill at {nth}"))?;
    } else {
        let (server, ready) = start(server).await?;
        ready.with_context(|| format!("after a kill at {nth}"))?;
        close(server).await?;
    }
    Ok(died)
}

/// The files of a data directory, but for SQLite's own, by their paths in it.
fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        for entry in std::fs::read_dir(&path)? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(path.strip_prefix(dir)?.to_owned());
            }
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_at_any_file_is_made_good_by_the_next() -> anyhow::Result<()> {
    let (server, ready) = start(Server::idle(EXE)?).await?;
    ready?;
    let files = files(&server.data_dir())?;
    close(server).await?;
    ensure!(files.len() >= 8, "{files:?}");
    let starts = files.into_iter().map(async |file| {
        let killed = tokio::task::spawn_blocking({
            let file = file.clone();
            move || {
                let mut server = Server::idle(EXE)?;
                server.kill_when(|dir| dir.join(&file).exists())?;
                anyhow::Ok(server)
            }
        });
        let (server, ready) = start(killed.await??).await?;
        ready.with_context(|| format!("after a kill when {} was there", file.display()))?;
        close(server).await
    });
    stream::iter(starts).buffer_unordered(AT_ONCE).try_collect().await
}

/// A server with a session that has answered once, and where the server's log is.
pub(crate) async fn talking() -> anyhow::Result<(Server, World, PathBuf)> {
    let (server, ready) = start(Server::idle(EXE)?).await?;
    ready?;
    let serve_log = server.scratch().join("serve.log");
    let world = with_log(World::new(&server).await, &serve_log)?;
    let talking = async {
        world.create("talks", ECHOES, json!({})).await?;
        world.send("talks", "before", "before").await?;
        world.heard("talks", 1, "got before").await
    };
    with_log(talking.await, &serve_log)?;
    Ok((server, world, serve_log))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_stop_ends_cleanly_and_its_sandboxes_go_on() -> anyhow::Result<()> {
    let (server, world, serve_log) = talking().await?;
    let agents = world.agents("talks");
    let server = stopped(server).await?;
    ensure!(!agents.is_empty() && world.agents("talks") == agents, "{agents:?} became {:?}", world.agents("talks"));
    let (server, ready) = start(server).await?;
    ready?;
    let adopted = async {
        world.send("talks", "after", "after").await?;
        world.heard("talks", 1, "got after").await?;
        ensure!(world.agents("talks") == agents, "{agents:?} became {:?}", world.agents("talks"));
        world.send("talks", "end", "end").await?;
        world.phase("talks", 1, Phase::Completed).await?;
        let said = world.said("talks", 1).await?;
        ensure!(said == ["started", "got before", "got after", "got end"], "{said:?}");
        world.end().await
    };
    with_log(adopted.await, &serve_log)?;
    with_log(close(server).await, &serve_log)
}

/// The server, after SIGTERM.
async fn stopped(mut server: Server) -> anyhow::Result<Server> {
    let since = Instant::now();
    let server = tokio::task::spawn_blocking(move || server.stop().map(|()| server)).await??;
    let took = since.elapsed();
    ensure!(took < CLEAN_END, "the server took {took:?} to stop:\n{}", server.log_text());
    Ok(server)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_live_whole_lives_while_the_server_is_told_to_stop_and_started_again() -> anyhow::Result<()> {
    let (mut server, ready) = start(Server::idle(EXE)?).await?;
    ready?;
    let serve_log = server.scratch().join("serve.log");
    let world = with_log(World::new(&server).await, &serve_log)?;
    let count = 2 * Life::ALL.len() * rounds();
    let lived = Tasks::new().spawn("lives", {
        let world = world.clone();
        async move { Life::live_all(&world, count).await }
    });
    let mut stops = 0;
    while stops < STOPS * rounds() && !lived.is_finished() {
        stops += 1;
        server = with_log(stopped(server).await, &serve_log)?;
        let (given_back, ready) = start(server).await?;
        server = given_back;
        with_log(ready, &serve_log)?;
    }
    with_log(lived.await?, &serve_log)?;
    note(&format!("stopped and started {stops} times"));
    with_log(close(server).await, &serve_log)
}
