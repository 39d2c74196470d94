//! An older state is put back while sandboxes live.

use anyhow::{Context as _, ensure};
use mainstay_api::phase::Phase;
use mainstay_testkit::crash::start;
use mainstay_testkit::server::Server;
use serde_json::json;

use crate::starts::talking;
use crate::world::{close, with_log};

/// Starts that the older state does not know of.
const LATER_STARTS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_has_its_sandboxes_and_can_stop_them() -> anyhow::Result<()> {
    let (server, world, serve_log) = talking().await?;
    let backup = server.scratch().join("backup.tar");
    let backup = backup.to_str().context("a path that is text")?.to_owned();
    // While it runs.
    offline(&server, &["backup", "--to", &backup]).await?;
    let mut server = stopped(server).await?;
    for at in 0..LATER_STARTS {
        let (later, ready) = start(server).await?;
        ready?;
        // Its sandbox has heard of this start once it answers.
        let word = format!("later {at}");
        world.send("talks", &word, &word).await?;
        world.heard("talks", 1, &format!("got {word}")).await?;
        server = stopped(later).await?;
    }
    offline(&server, &["restore", &backup, "--replace"]).await?;
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
    offline(&server, &["fsck"]).await?;
    with_log(close(server).await, &serve_log)
}

/// Has the program work on the server's directory.
async fn offline(server: &Server, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = server.command(arguments);
    command.arg("--data-dir").arg(server.data_dir());
    let done = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(done.status.success(), "{arguments:?}: {done:?}");
    Ok(())
}

async fn stopped(mut server: Server) -> anyhow::Result<Server> {
    tokio::task::spawn_blocking(move || server.stop().map(|()| server)).await?
}
