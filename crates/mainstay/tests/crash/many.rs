//! Fifty sessions live while the server is killed at drawn points, over and over.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mainstay_runtime::Tasks;
use mainstay_runtime::fault::Point;
use mainstay_testkit::crash::{Killer, Seed, arm, hits, note, start};
use mainstay_testkit::server::Server;
use tokio::time::{Instant, timeout};

use crate::EXE;
use crate::life::Life;
use crate::world::{World, close, with_log};

const SESSIONS: usize = 50;
/// Sessions that live at one time, so that some are at every step whenever the server dies.
const AT_ONCE: usize = 16;
const KILLS: usize = 25;
/// Longest time for all of them.
const PATIENCE: Duration = Duration::from_mins(4);

/// Lets `count` sessions of all sorts live, and their project end.
async fn live(world: &World, count: usize) -> anyhow::Result<()> {
    let lives = (0..count).map(|at| {
        let life = Life::ALL[at % Life::ALL.len()];
        async move { life.live(world, &format!("s{at}-{}", format!("{life:?}").to_lowercase())).await }
    });
    let all = stream::iter(lives).buffer_unordered(AT_ONCE).try_collect::<()>();
    timeout(PATIENCE, all).await.context("not all sessions came to their end in time")??;
    world.end().await
}

/// A calm run of as many sessions, counted: how often each fault point is passed.
async fn counted(count: usize) -> anyhow::Result<std::collections::BTreeMap<String, u64>> {
    let mut server = Server::idle(EXE)?;
    let log = server.scratch().join("faults");
    arm(&mut server, Some("count"), Some(&log));
    let (server, ready) = start(server).await?;
    ready?;
    let serve_log = server.scratch().join("serve.log");
    let lived = async {
        let world = World::new(&server).await?;
        live(&world, count).await?;
        let hits = hits(&log);
        close(server).await?;
        hits
    };
    with_log(lived.await, &serve_log)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_point_is_passed_by_the_sessions_lives() -> anyhow::Result<()> {
    let hits = counted(Life::ALL.len()).await?;
    let missed: Vec<&str> =
        Point::ALL.iter().map(|point| point.name()).filter(|name| !hits.contains_key(*name)).collect();
    ensure!(missed.is_empty(), "not passed: {missed:?}, of {hits:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_sessions_live_whole_lives_while_the_server_is_killed() -> anyhow::Result<()> {
    let since = Instant::now();
    let total: u64 = counted(SESSIONS).await?.values().sum();
    note(&format!("a calm run passes {total} fault points in {:?}", since.elapsed()));
    let rounds = std::env::var("MAINSTAY_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for _ in 0..rounds {
        let since = Instant::now();
        let deaths = killed_often(total).await?;
        note(&format!("{deaths} deaths in {:?}", since.elapsed()));
    }
    Ok(())
}

async fn killed_often(total: u64) -> anyhow::Result<usize> {
    let mut seed = Seed::fresh("kills of the server");
    let faults: Vec<String> = seed.gaps(KILLS, total).into_iter().map(|gap| format!("kill@{gap}")).collect();
    note(&format!("{faults:?}"));
    let (server, ready) = start(Server::idle(EXE)?).await?;
    ready?;
    let serve_log = server.scratch().join("serve.log");
    let world = with_log(World::new(&server).await, &serve_log)?;
    let mut server = server;
    server.kill9()?;
    let tasks = Tasks::new();
    let killer = Killer::start(server, faults, &tasks);
    let lived = with_log(live(&world, SESSIONS).await, &serve_log);
    let survivor = killer.finish().await;
    lived?;
    let survivor = survivor?;
    with_log(close(survivor.server).await, &serve_log)?;
    Ok(survivor.deaths.len())
}
