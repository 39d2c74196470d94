//! A shim dies at each of its own steps: its run comes to the end that its records tell, and is not run again.

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mainstay_api::phase::Phase;
use mainstay_runtime::fault::Point;
use mainstay_testkit::crash::{arm_shims, start};
use mainstay_testkit::server::Server;
use serde_json::json;

use crate::EXE;
use crate::world::{World, close, with_log};

/// Lives at one time.
const AT_ONCE: usize = 4;
/// Counts its executions in a workspace that is kept.
const COUNTS: &str = "echo ran >> /workspace/ran; echo run $(wc -l < /workspace/ran)";

/// What a run comes to whose shim died there, and how often its agent can have run.
fn end_of(point: Point) -> (Phase, &'static str, std::ops::RangeInclusive<u64>) {
    match point {
        Point::ShimBeforeClaim => (Phase::Failed, "CreationFailed", 0..=0),
        Point::ShimAfterClaim | Point::ShimAfterState | Point::ShimBeforeStart => (Phase::Failed, "Lost", 0..=0),
        Point::ShimAfterStart => (Phase::Failed, "Lost", 0..=1),
        Point::ShimBeforeRecord => (Phase::Failed, "Lost", 1..=1),
        _ => (Phase::Completed, "Finished", 1..=1),
    }
}

/// R14.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_may_die_at_each_of_its_steps() -> anyhow::Result<()> {
    let points: Vec<Point> = Point::ALL.iter().copied().filter(|point| point.is_shims()).collect();
    ensure!(points.len() >= 8, "{points:?}");
    let lives = points.into_iter().map(async |point| dies(point).await.with_context(|| format!("at {}", point.name())));
    stream::iter(lives).buffer_unordered(AT_ONCE).try_collect().await
}

/// The first shim of a server dies there; those of the next run and of a neighbour do not.
async fn dies(point: Point) -> anyhow::Result<()> {
    let mut server = Server::idle(EXE)?;
    let struck = server.scratch().join("struck");
    arm_shims(&mut server, Some(&format!("kill:{}@1", point.name())), Some(&struck));
    let (server, ready) = start(server).await?;
    ready?;
    let serve_log = server.scratch().join("serve.log");
    let lived = async {
        let world = World::new(&server).await?;
        let (phase, reason, ran) = end_of(point);
        world.create("first", COUNTS, json!({ "workspace": { "keep": true } })).await?;
        let status = world.phase("first", 1, phase).await?.status.unwrap_or_default();
        ensure!((status.stopped_reason.as_deref(), status.attempts) == (Some(reason), 1), "{status:?}");
        ensure!(struck.exists(), "no shim came there");
        world.quiet("first").await?;
        world.create("neighbour", COUNTS, json!({})).await?;
        world.change("first", &json!({ "run": 2 })).await?;
        world.phase("first", 2, Phase::Completed).await?;
        world.phase("neighbour", 1, Phase::Completed).await?;
        let said = world.said("first", 2).await?;
        let expected: Vec<String> = ran.map(|ran| format!("run {}", ran + 1)).collect();
        ensure!(said.len() == 1 && expected.contains(&said[0]), "run 2 was to say one of {expected:?}: {said:?}");
        world.end().await
    };
    with_log(lived.await, &serve_log)?;
    with_log(close(server).await, &serve_log)
}
