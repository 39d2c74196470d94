//! More operations than a backend has places, and a backend that is down for longer than its breaker stays open: they wait
//! for their turn, and none of them uses up its attempts by waiting.

use anyhow::ensure;
use mainstay_testkit::drill_backend::{Fault, On};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::cases::{all, run};
use crate::kind::provision;
use crate::stage::{GLANCE, PATIENCE, Stage};

/// Of one project: as many as it may have workers, and some more. Networks have 15 places, and as many may wait.
const OPERATIONS: usize = 60;
/// How long a call takes, in milliseconds: the last ones are refused more often than they may fail.
const SLOW_MILLIS: u64 = 6_000;
/// What is there of each once it is provisioned.
const THINGS: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// The backend is well, and slower than operations come.
    Busy,
    /// It is down until a probe has failed as well.
    Down,
}

/// Waits until the breaker of the network's effects has been open for so many seconds.
async fn is_open(stage: &Stage, since: impl Fn(u64) -> bool) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let status: Value = stage.client.get("/status").await?.json()?;
        let is = |one: &&Value| one["backend"] == "network" && one["class"] == "effect" && one["state"] == "open";
        let breaker = status["breakers"].as_array().and_then(|all| all.iter().find(is));
        if breaker.and_then(|breaker| breaker["sinceSeconds"].as_u64()).is_some_and(&since) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "it is not open so: {status}\n{}", stage.last_words());
        sleep(GLANCE).await;
    }
}

async fn waits(case: &Case) -> anyhow::Result<()> {
    let (stage, server) = Stage::running().await?;
    let fault = match case {
        Case::Busy => Fault::LateAnswer { millis: SLOW_MILLIS },
        Case::Down => Fault::Status { code: 503, retry_after_seconds: None },
    };
    stage.backend.drill(On::verb("network", "create"), fault, None).await?;
    let names: Vec<String> = (0..OPERATIONS).map(|at| format!("site-{at}")).collect();
    for name in &names {
        stage.order(name, &provision(name)).await?;
    }
    if *case == Case::Down {
        // It is tried after 30 s, and opens anew.
        is_open(&stage, |seconds| seconds >= 20).await?;
        is_open(&stage, |seconds| seconds < 20).await?;
        stage.backend.calm().await?;
    }
    let mut attempts = 0;
    for name in &names {
        let ended = stage.ended(name, "Succeeded", "Succeeded").await?;
        attempts += ended["status"]["attempts"].as_u64().unwrap_or_default();
    }
    ensure!(attempts > names.len() as u64, "nothing was refused, so that this shows nothing: {attempts} attempts");
    stage.judged().await?;
    let there = stage.backend.inventory().await?.len();
    ensure!(there == names.len() * THINGS, "{there} things for {} sites", names.len());
    drop(server);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_backend_does_not_use_up_its_attempts() -> anyhow::Result<()> {
    // The second takes a minute and a half. That operations wait for a breaker that opened once is among `observe`'s tests.
    let cases = if all() { vec![Case::Busy, Case::Down] } else { vec![Case::Busy] };
    run("more operations than places, or than a backend that is down takes", cases, waits).await
}
