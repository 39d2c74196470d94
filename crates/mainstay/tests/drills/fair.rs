//! One project floods the queue; another's operations hardly wait longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_runtime::{Clock, Tasks};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cases::{all, report};
use crate::stage::{OPERATIONS, Stage, operation};

/// Of the flooding project, for each of the other's.
const FLOOD: usize = 100;
/// Operations of one request.
const BATCH: usize = 100;

/// What the flooding project orders.
#[derive(Debug, Clone, Copy)]
enum Flood {
    /// Operations that hold their workers: they lie there before the other begins, and all of the project's share is taken.
    OfWork,
    /// Operations that are over at once, as many as the disk takes: they go on while the other works.
    OfWrites,
}

fn of(project: &str, name: &str, flood: Option<Flood>) -> Value {
    let spec = match flood {
        Some(Flood::OfWork) => {
            json!({ "handler": "drill-poison", "payload": { "harm": "time" }, "timeoutSeconds": 600, "project": project })
        }
        Some(Flood::OfWrites) | None => json!({ "handler": "noop", "project": project }),
    };
    operation(name, &spec)
}

async fn order(stage: &Stage, flood: Flood, from: usize) -> anyhow::Result<()> {
    let items: Vec<Value> = (from..from + BATCH).map(|at| of("floods", &format!("flood-{at}"), Some(flood))).collect();
    let list =
        json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "OperationList", "metadata": {}, "items": items });
    stage.client.call("POST", OPERATIONS, &list).await?.done().map(drop)
}

/// Orders a hundred of the flooding project's for each one that the other has ordered, until it is told to stop.
async fn writes(stage: Arc<Stage>, ordered: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> anyhow::Result<usize> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        if count >= FLOOD * (ordered.load(Ordering::Relaxed) + 1) {
            tokio::task::yield_now().await;
            continue;
        }
        order(&stage, Flood::OfWrites, count).await?;
        count += BATCH;
    }
    Ok(count)
}

/// For how long each of `count` operations, ordered one after the other, waited until it was begun.
async fn waits(stage: &Stage, prefix: &str, count: usize, ordered: &AtomicUsize) -> anyhow::Result<Vec<Duration>> {
    let mut waits = Vec::new();
    for at in 0..count {
        let name = format!("{prefix}-{at}");
        let began = Clock::system().now();
        stage.client.create(OPERATIONS, &of("quiet", &name, None)).await?;
        ordered.fetch_add(1, Ordering::Relaxed);
        let ended = stage.ended(&name, "Succeeded", "").await?;
        let started: jiff::Timestamp = ended["status"]["startedAt"].as_str().context("when it began")?.parse()?;
        waits.push(started.duration_since(began).unsigned_abs());
    }
    waits.sort_unstable();
    Ok(waits)
}

fn ms(wait: Duration) -> f64 {
    wait.as_secs_f64() * 1_000.0
}

/// The 99th percentile of waits, and the median.
fn tail(waits: &[Duration]) -> (f64, f64) {
    (ms(waits[waits.len() * 99 / 100]), ms(waits[waits.len() / 2]))
}

/// Waits without the flood and with it, on one server, one right after the other.
async fn round(flood: Flood, count: usize) -> anyhow::Result<((f64, f64), (f64, f64))> {
    let (stage, server) = Stage::running().await?;
    let (stage, tasks) = (Arc::new(stage), Tasks::new());
    let (ordered, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    waits(&stage, "warm", count / 4, &AtomicUsize::new(0)).await?;
    let calm = waits(&stage, "calm", count, &AtomicUsize::new(0)).await?;
    let flooded = match flood {
        Flood::OfWork => {
            for from in (0..FLOOD * count).step_by(BATCH) {
                order(&stage, flood, from).await?;
            }
            waits(&stage, "flooded", count, &ordered).await
        }
        Flood::OfWrites => {
            let flooding = tasks.spawn("flood", writes(stage.clone(), ordered.clone(), stop.clone()));
            let flooded = waits(&stage, "flooded", count, &ordered).await;
            stop.store(true, Ordering::Relaxed);
            let floods = flooding.await.context("the flood failed")??;
            ensure!(floods >= FLOOD * count / 2, "that was no flood: {floods}");
            flooded
        }
    };
    drop(server);
    Ok((tail(&calm), tail(&flooded?)))
}

async fn floods(flood: Flood, what: &str) -> anyhow::Result<()> {
    let (rounds, count) = if all() { (5, 100) } else { (1, 20) };
    let (mut moved, mut figures) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for _ in 0..rounds {
        let ((calm, calm_median), (flooded, flooded_median)) = round(flood, count).await?;
        moved.push((flooded / calm - 1.0) * 100.0);
        figures.push(json!({
            "calm_p99_ms": calm, "calm_p50_ms": calm_median,
            "flooded_p99_ms": flooded, "flooded_p50_ms": flooded_median,
        }));
        // The order of claims is the store's tests' matter; here only that nobody waits for the flood to pass.
        ensure!(flooded < 1_000.0, "an operation waited {flooded} ms behind another project's");
    }
    moved.sort_by(f64::total_cmp);
    report(
        what,
        rounds,
        &json!({
            "p99_moved_percent_median": moved[moved.len() / 2], "rounds": figures, "took_s": began.elapsed().as_secs_f64(),
        }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_work_floods_the_queue_delays_nobody_else() -> anyhow::Result<()> {
    floods(Flood::OfWork, "a flood of work: all of the project's share of workers is taken").await
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_writes_flood_the_disk_leave_room_for_others() -> anyhow::Result<()> {
    floods(Flood::OfWrites, "a flood of writes: the disk takes no more").await
}
