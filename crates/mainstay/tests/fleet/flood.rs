//! Ten times the load that the database takes: what is taken is hardly less, and the rest is told to come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_runtime::Tasks;
use mainstay_testkit::bench::Sample;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::calls::Answer;
use crate::cases::{all, report};
use crate::stage::{Fleet, takes_up};

/// Clients at all replicas that together reach the peak.
const CLIENTS: usize = 200;
/// So many times as many come.
const TIMES: usize = 10;
/// Of the peak's goodput at least this share is kept. It is asked for in `make drills` alone: how two short spans compare says
/// more of what else the machine does.
const KEPT: f64 = 0.8;
/// An answer that comes later is none.
const GOOD: Duration = Duration::from_secs(5);

/// What so many clients are told within a time, and how many good answers a second that makes.
async fn offered(fleet: &Fleet, clients: usize, span: Duration, round: &str) -> anyhow::Result<(f64, Vec<Answer>)> {
    let (tasks, number, until) = (Tasks::new(), Arc::new(AtomicUsize::new(0)), Instant::now() + span);
    let mut running = Vec::new();
    for client in 0..clients {
        let (api, number) = (fleet.replicas[client % 3].api.clone(), Arc::clone(&number));
        let round = round.to_owned();
        running.push(tasks.spawn("client", async move {
            let mut answers = Vec::new();
            while Instant::now() < until {
                let name = format!("{round}-{}", number.fetch_add(1, Ordering::Relaxed));
                let answer = api.create(&name, None).await;
                if answer.code != Some(201) {
                    sleep(Duration::from_millis(100)).await;
                }
                answers.push(answer);
            }
            answers
        }));
    }
    let mut answers = Vec::new();
    for client in running {
        answers.extend(client.await.context("a client failed")?);
    }
    let good = answers.iter().filter(|answer| answer.code == Some(201) && answer.took <= GOOD).count();
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let rate = good as f64 / span.as_secs_f64();
    Ok((rate, answers))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_the_load_leaves_the_goodput() -> anyhow::Result<()> {
    if !takes_up("ten times the load", 3) {
        return Ok(());
    }
    let span = Duration::from_secs(if all() { 10 } else { 3 });
    let fleet = Fleet::start(3, |_, _| {}).await?;
    offered(&fleet, CLIENTS, span / 3, "warm").await?;
    let (peak, _) = offered(&fleet, CLIENTS, span, "peak").await?;
    // Connections are made before: what they cost is not what is asked here.
    offered(&fleet, CLIENTS * TIMES, span / 2, "rush").await?;
    let (goodput, answers) = offered(&fleet, CLIENTS * TIMES, span, "flood").await?;
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.code != Some(201)).collect();
    for answer in &refused {
        let told = matches!(answer.code, Some(429 | 503)) && answer.retry_after.is_some();
        ensure!(told, "it was neither done nor told to come back: {answer:?}");
    }
    let times: Sample = answers.iter().map(|answer| answer.took.as_secs_f64() * 1_000.0).collect();
    let kept = if all() { KEPT } else { 0.0 };
    ensure!(goodput > 0.0 && goodput >= kept * peak, "{goodput} writes a second of {peak}");
    let (again, _) = offered(&fleet, CLIENTS, span / 3, "after").await?;
    ensure!(again > 0.0, "nothing is done any more");
    let figures = json!({
        "peak_per_s": peak, "goodput_per_s": goodput, "kept_percent": 100.0 * goodput / peak, "refused": refused.len(),
        "p50_ms": times.percentile(50.0), "p99_ms": times.percentile(99.0), "afterwards_per_s": again,
    });
    report("D28 ten times the load", 1, &figures)
}
