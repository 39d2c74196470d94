//! Each step fails in turn, each action is carried out twice in turn, and the server dies at each step in turn, over one
//! session's life.
//!
//! What failed is tried again, and what a dead server has done already is found by the next one, so that repeating it does
//! no harm: the session comes to the same end.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mainstay_runtime::Tasks;
use mainstay_runtime::fault::Point;
use mainstay_testkit::crash::{Killer, Seed, arm, hits, note, start};
use tokio::time::Instant;

use crate::life::Life;
use crate::world::{World, begun, close, rounds, with_log};

/// Lives at one time: most of each is spent waiting for a back-off.
const AT_ONCE: usize = 6;
/// Of the passes of one point, these come in turn; of what is beyond, a few are drawn.
const IN_TURN: u64 = 16;
const DRAWN: usize = 3;

/// A project with one session that is talked to, stopped, resumed and deleted: it passes every point.
async fn live(world: &World) -> anyhow::Result<()> {
    Life::Whole.live(world, "whole").await?;
    world.end().await
}

/// How often a calm life passes each point.
async fn counted() -> anyhow::Result<BTreeMap<String, u64>> {
    let mut server = begun().await?;
    let log = server.scratch().join("faults");
    arm(&mut server, Some("count"), Some(&log));
    let (server, ready) = start(server).await?;
    ready?;
    live(&World::new(&server).await?).await?;
    let hits = hits(&log)?;
    close(server).await?;
    Ok(hits)
}

/// `VERB:POINT@N` for these points: the first passes in turn, and a few of the later ones.
fn faults(seed: &mut Seed, verb: &str, hits: &BTreeMap<String, u64>, points: impl Fn(&str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for (point, count) in hits.iter().filter(|(point, _)| points(point)) {
        let drawn = (0..DRAWN).map(|_| seed.upto(*count)).filter(|nth| *nth > IN_TURN);
        let passes: std::collections::BTreeSet<u64> = (1..=IN_TURN.min(*count)).chain(drawn).collect();
        faults.extend(passes.into_iter().map(|nth| format!("{verb}:{point}@{nth}")));
    }
    faults
}

/// R34.
#[tokio::test(flavor = "multi_thread")]
async fn each_step_may_fail() -> anyhow::Result<()> {
    let mut seed = Seed::fresh("failing steps");
    let hits = counted().await?;
    for _ in 0..rounds() {
        // What follows a commit cannot fail.
        let faults = faults(&mut seed, "fail", &hits, |point| !point.starts_with("store.after"));
        all(faults, async |fault| strikes(fault).await).await?;
    }
    Ok(())
}

/// R34.
#[tokio::test(flavor = "multi_thread")]
async fn each_action_may_be_repeated() -> anyhow::Result<()> {
    let mut seed = Seed::fresh("repeated actions");
    let hits = counted().await?;
    let can_repeat = |name: &str| Point::ALL.iter().any(|point| point.name() == name && point.can_repeat());
    // Sandboxes are taken over in `adopted`, and operations taken back in `drills`.
    let elsewhere = [Point::NodeAfterServe, Point::OperationAfterUndo];
    let ours = |point: &&Point| point.can_repeat() && !elsewhere.contains(point);
    let missed: Vec<_> = Point::ALL.iter().filter(ours).filter(|point| !hits.contains_key(point.name())).collect();
    ensure!(missed.is_empty(), "not passed: {missed:?}, of {hits:?}");
    for _ in 0..rounds() {
        let faults = faults(&mut seed, "repeat", &hits, can_repeat);
        all(faults, async |fault| strikes(fault).await).await?;
    }
    Ok(())
}

/// R34.
#[tokio::test(flavor = "multi_thread")]
async fn each_step_may_be_the_servers_last() -> anyhow::Result<()> {
    let mut seed = Seed::fresh("last steps");
    let hits = counted().await?;
    for _ in 0..rounds() {
        let faults = faults(&mut seed, "kill", &hits, |_| true);
        all(faults, async |fault| kills(fault).await).await?;
    }
    Ok(())
}

/// Lives under each of the faults; most of them must have struck.
async fn all(faults: Vec<String>, life: impl AsyncFn(&str) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let (since, count, life) = (Instant::now(), faults.len(), &life);
    let lives = faults.iter().map(|fault| async move { life(fault).await.with_context(|| format!("under {fault}")) });
    let struck: Vec<bool> = stream::iter(lives).buffer_unordered(AT_ONCE).try_collect().await?;
    let struck = struck.into_iter().filter(|struck| *struck).count();
    note(&format!("{struck} of {count} faults struck; {:?}", since.elapsed()));
    ensure!(struck * 4 >= count * 3, "only {struck} of {count} faults struck");
    Ok(())
}

/// A life in which one step fails or is repeated; whether it was.
async fn strikes(fault: &str) -> anyhow::Result<bool> {
    let mut server = begun().await?;
    let (log, serve_log) = (server.scratch().join("faults"), server.scratch().join("serve.log"));
    arm(&mut server, Some(fault), Some(&log));
    let (mut server, mut ready) = start(server).await?;
    if ready.is_err() {
        // It was a step of the start itself, and the server said so.
        let status = server.wait()?;
        ensure!(status.code().is_some_and(|code| code != 0), "it ended with {status}:\n{}", server.log_text());
        arm(&mut server, None, None);
        (server, ready) = start(server).await?;
        ready?;
    }
    let world = with_log(World::new(&server).await, &serve_log)?;
    with_log(live(&world).await, &serve_log)?;
    let (_, at) = fault.split_once(':').context("a fault")?;
    let (point, nth) = at.rsplit_once('@').context("a fault")?;
    let struck = hits(&log)?.get(point).copied().unwrap_or_default() >= nth.parse()?;
    with_log(close(server).await, &serve_log)?;
    Ok(struck)
}

/// A life in which the server dies at one step; whether it did.
async fn kills(fault: &str) -> anyhow::Result<bool> {
    let server = begun().await?;
    let serve_log = server.scratch().join("serve.log");
    let world = World::begin(&server).await?;
    let tasks = Tasks::new();
    let killer = Killer::start(server, vec![fault.to_owned()], &tasks);
    let lived = async {
        world.project().await?;
        live(&world).await
    };
    let lived = with_log(lived.await, &serve_log);
    // A server that did not come back is why nobody was answered.
    let survivor = killer.finish().await?;
    lived?;
    with_log(close(survivor.server).await, &serve_log)?;
    Ok(!survivor.deaths.is_empty())
}
