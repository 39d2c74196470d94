//! Fifty sessions live while the server is killed at drawn points, over and over.

use anyhow::ensure;
use mainstay_runtime::Tasks;
use mainstay_runtime::fault::Point;
use mainstay_testkit::crash::{Killer, Seed, arm, arm_shims, hits, note, start};
use mainstay_testkit::server::Server;
use tokio::time::Instant;

use crate::life::Life;
use crate::world::{World, begun, close, rounds, with_log};
use crate::{EXE, adopted};

const SESSIONS: usize = 50;
const KILLS: usize = 25;

/// A calm run of as many sessions, counted: how often each fault point is passed, those of shims included.
async fn counted(count: usize) -> anyhow::Result<std::collections::BTreeMap<String, u64>> {
    let mut server = Server::idle(EXE)?;
    let log = server.scratch().join("faults");
    arm(&mut server, Some("count"), Some(&log));
    arm_shims(&mut server, Some("count"), None);
    let (server, ready) = start(server).await?;
    ready?;
    let serve_log = server.scratch().join("serve.log");
    let lived = async {
        let world = World::new(&server).await?;
        Life::live_all(&world, count).await?;
        let hits = hits(&log);
        close(server).await?;
        hits
    };
    with_log(lived.await, &serve_log)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_point_is_passed_by_the_sessions_lives() -> anyhow::Result<()> {
    let mut hits = counted(Life::ALL.len()).await?;
    // What only a server passes that finds sandboxes.
    hits.extend(adopted::passed("count").await?);
    // Nothing in a session's life is taken back: `drills` passes these.
    let elsewhere = [Point::OperationAfterUndoing, Point::OperationAfterUndo];
    let ours = Point::ALL.iter().filter(|point| !elsewhere.contains(point));
    let missed: Vec<&str> = ours.map(|point| point.name()).filter(|name| !hits.contains_key(*name)).collect();
    ensure!(missed.is_empty(), "not passed: {missed:?}, of {hits:?}");
    Ok(())
}

/// R33.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_sessions_live_whole_lives_while_the_server_is_killed() -> anyhow::Result<()> {
    let since = Instant::now();
    let hits = counted(SESSIONS).await?;
    let total: u64 = hits.iter().filter(|(point, _)| !point.starts_with("shim.")).map(|(_, count)| count).sum();
    note(&format!("a calm run passes {total} fault points in {:?}", since.elapsed()));
    for _ in 0..rounds() {
        let since = Instant::now();
        let deaths = killed_often(total).await?;
        note(&format!("{deaths} deaths in {:?}", since.elapsed()));
        // The lives end earlier than the kills only if they pass fewer points than a calm run by far.
        ensure!(deaths * 2 >= KILLS, "only {deaths} of {KILLS} kills struck");
    }
    Ok(())
}

async fn killed_often(total: u64) -> anyhow::Result<usize> {
    let mut seed = Seed::fresh("kills of the server");
    // Rounded, so that a seed repeats its draw; the starts add the difference and more.
    let gaps = seed.gaps(KILLS, total.next_power_of_two());
    let faults: Vec<String> = gaps.into_iter().map(|gap| format!("kill@{gap}")).collect();
    note(&format!("{faults:?}"));
    let server = begun().await?;
    let serve_log = server.scratch().join("serve.log");
    let world = World::begin(&server).await?;
    let tasks = Tasks::new();
    let killer = Killer::start(server, faults, &tasks);
    let lived = async {
        world.project().await?;
        Life::live_all(&world, SESSIONS).await
    };
    let lived = with_log(lived.await, &serve_log);
    // A server that did not come back is why nobody was answered.
    let survivor = killer.finish().await?;
    lived?;
    with_log(close(survivor.server).await, &serve_log)?;
    Ok(survivor.deaths.len())
}
