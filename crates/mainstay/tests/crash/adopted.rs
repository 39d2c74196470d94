//! A live sandbox is taken over by the next server: each step of that fails, is carried out twice, or is the server's
//! last, and the sandbox goes on.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use mainstay_api::phase::Phase;
use mainstay_runtime::Tasks;
use mainstay_runtime::fault::Point;
use mainstay_testkit::crash::{Killer, arm, hits, start};
use mainstay_testkit::server::Server;
use serde_json::json;

use crate::EXE;
use crate::talk::ECHOES;
use crate::world::{World, close, with_log};

const BEFORE: Point = Point::NodeBeforeServe;
const AFTER: Point = Point::NodeAfterServe;

/// A server that has left a session at work, and does not run now.
async fn left() -> anyhow::Result<(Server, World)> {
    let (server, ready) = start(Server::idle(EXE)?).await?;
    ready?;
    let serve_log = server.scratch().join("serve.log");
    let talking = async {
        let world = World::new(&server).await?;
        world.create("talks", ECHOES, json!({})).await?;
        world.send("talks", "before", "before").await?;
        world.heard("talks", 1, "got before").await?;
        anyhow::Ok(world)
    };
    let world = with_log(talking.await, &serve_log)?;
    let server = tokio::task::spawn_blocking(move || {
        let mut server = server;
        server.stop().map(|()| server)
    });
    Ok((server.await??, world))
}

/// The session answers, and comes to its end.
async fn goes_on(world: &World) -> anyhow::Result<()> {
    world.send("talks", "after", "after").await?;
    world.send("talks", "end", "end").await?;
    let status = world.phase("talks", 1, Phase::Completed).await?.status.unwrap_or_default();
    ensure!(status.attempts == 1, "{status:?}");
    let said = world.said("talks", 1).await?;
    ensure!(said == ["started", "got before", "got after", "got end"], "{said:?}");
    world.end().await
}

/// Which points a server passes that takes a session over, under this fault, which does not kill it.
pub(crate) async fn passed(fault: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let (mut server, world) = left().await?;
    let (log, serve_log) = (server.scratch().join("faults"), server.scratch().join("serve.log"));
    arm(&mut server, Some(fault), Some(&log));
    let (server, ready) = start(server).await?;
    ready?;
    with_log(goes_on(&world).await, &serve_log)?;
    let hits = hits(&log)?;
    with_log(close(server).await, &serve_log)?;
    Ok(hits)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_taking_over_may_fail_or_be_repeated() -> anyhow::Result<()> {
    for (verb, point, count) in [("fail", BEFORE, 2), ("fail", AFTER, 1), ("repeat", AFTER, 2)] {
        let fault = format!("{verb}:{}@1", point.name());
        let hits = passed(&fault).await.with_context(|| format!("under {fault}"))?;
        ensure!(hits.get(point.name()).is_some_and(|hits| *hits >= count), "{fault} did not strike: {hits:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_taking_over_may_be_the_servers_last() -> anyhow::Result<()> {
    for point in [BEFORE, AFTER] {
        let (server, world) = left().await?;
        let serve_log = server.scratch().join("serve.log");
        let killer = Killer::start(server, vec![format!("kill:{}@1", point.name())], &Tasks::new());
        let lived = with_log(goes_on(&world).await, &serve_log);
        let survivor = killer.finish().await?;
        lived.with_context(|| format!("killed at {}", point.name()))?;
        ensure!(survivor.deaths.len() == 1, "{} was not passed", point.name());
        with_log(close(survivor.server).await, &serve_log)?;
    }
    Ok(())
}
