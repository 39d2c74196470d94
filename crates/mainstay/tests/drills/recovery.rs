//! How long it takes until the operation of a killed server runs again.

use std::time::Duration;

use anyhow::ensure;
use mainstay_runtime::Tasks;
use mainstay_testkit::crash::start;
use mainstay_testkit::drill_backend::{Fault, On};
use serde_json::json;
use tokio::time::Instant;

use crate::cases::{all, report};
use crate::kind::{Kind, NAME};
use crate::stage::Stage;

/// What issue 3 asks for.
const BOUND: Duration = Duration::from_secs(15);

/// From SIGKILL in the middle of a step to the first call of the next attempt; the server is started again at once.
async fn time() -> anyhow::Result<Duration> {
    let (stage, mut server) = Stage::running().await?;
    stage.backend.drill(On::verb("compute", "launch"), Fault::Stall, Some(1)).await?;
    Kind::Provision.order(&stage).await?;
    stage.backend.arrived("compute", "launch", 1).await?;
    let looked = stage.backend.arrivals("compute", "effect").await?;
    let began = Instant::now();
    server.kill9()?;
    let started = Tasks::new().spawn("start", start(server));
    stage.backend.arrived("compute", "effect", looked + 1).await?;
    let took = began.elapsed();
    let (server, ready) = started.await??;
    ready?;
    Kind::Provision.comes_to_its_end(&stage).await?;
    let ended = stage.ended(NAME, "Succeeded", "").await?;
    ensure!(ended["status"]["attempts"] == 2, "{ended}");
    drop(server);
    Ok(took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_servers_operation_runs_again_in_time() -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..if all() { 9 } else { 1 } {
        times.push(time().await?);
    }
    times.sort_unstable();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    ensure!(most <= BOUND, "{times:?}");
    report(
        "from SIGKILL to the next attempt, started again at once",
        times.len(),
        &json!({
            "median_s": median.as_secs_f64(), "max_s": most.as_secs_f64(), "aim_s": BOUND.as_secs_f64(),
        }),
    )
}
