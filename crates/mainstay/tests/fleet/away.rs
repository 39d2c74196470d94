//! The database is away when a server starts.

use anyhow::{Context as _, ensure};
use mainstay_testkit::proxy::Fault;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use crate::stage::{Fleet, GLANCE, PATIENCE};

/// Starts the first server while nobody answers for the database, and waits until it has noticed.
async fn waits(fleet: &mut Fleet) -> anyhow::Result<std::sync::mpsc::Receiver<()>> {
    let replica = &mut fleet.replicas[0];
    block_in_place(|| replica.server.stop())?;
    replica.link.set(Fault::Refuse).await?;
    let said = |log: &str| log.matches("nothing is served until it can be reached").count();
    let before = said(&replica.server.log_text());
    let ready = replica.server.spawn()?;
    let begun = Instant::now();
    while said(&replica.server.log_text()) == before {
        ensure!(begun.elapsed() < PATIENCE, "it does not wait:\n{}", replica.server.log_text());
        sleep(GLANCE).await;
    }
    Ok(ready)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_waits_for_a_database_that_is_away_and_may_be_stopped_meanwhile() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(1, |_, _| {}).await?;
    let made = fleet.replicas[0].api.create("before", None).await;
    ensure!(made.code == Some(201), "{made:?}");
    let ready = waits(&mut fleet).await?;
    fleet.replicas[0].link.set(Fault::Pass).await?;
    block_in_place(|| ready.recv_timeout(PATIENCE)).context("it does not start")?;
    fleet.all_well().await?;
    let there = fleet.replicas[0].api.get("/api/v1/namespaces/default/configmaps/before").await;
    ensure!(there.code == Some(200), "{there:?}");
    drop(waits(&mut fleet).await?);
    block_in_place(|| fleet.replicas[0].server.stop())?;
    fleet.replicas[0].link.set(Fault::Pass).await
}
