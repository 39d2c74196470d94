//! An older database is put back while sandboxes live.

use anyhow::ensure;
use mainstay_api::phase::Phase;
use mainstay_testkit::crash::start;
use mainstay_testkit::server::Server;
use serde_json::json;

use crate::starts::talking;
use crate::world::{close, with_log};

/// Starts that the older database does not know of.
const LATER_STARTS: usize = 3;

/// A clean stop leaves the whole database in this file.
const DATABASE: &str = "state.db";

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_has_its_sandboxes_and_can_stop_them() -> anyhow::Result<()> {
    let (server, world, serve_log) = talking().await?;
    let mut server = stopped(server).await?;
    let (database, backup) = (server.data_dir().join(DATABASE), server.scratch().join("backup"));
    std::fs::copy(&database, &backup)?;
    for at in 0..LATER_STARTS {
        let (later, ready) = start(server).await?;
        ready?;
        // Its sandbox has heard of this start once it answers.
        let word = format!("later {at}");
        world.send("talks", &word, &word).await?;
        world.heard("talks", 1, &format!("got {word}")).await?;
        server = stopped(later).await?;
    }
    std::fs::copy(&backup, &database)?;
    let agents = world.agents("talks");
    let (server, ready) = start(server).await?;
    ready?;
    let adopted = async {
        ensure!(!agents.is_empty() && world.agents("talks") == agents, "it goes on: {agents:?}");
        world.change("talks", &json!({ "desiredState": "Stopped" })).await?;
        let status = world.phase("talks", 1, Phase::Stopped).await?.status.unwrap_or_default();
        ensure!(status.stopped_reason.as_deref() == Some("User"), "{status:?}");
        world.quiet("talks").await?;
        world.end().await
    };
    with_log(adopted.await, &serve_log)?;
    with_log(close(server).await, &serve_log)
}

async fn stopped(mut server: Server) -> anyhow::Result<Server> {
    tokio::task::spawn_blocking(move || server.stop().map(|()| server)).await?
}
