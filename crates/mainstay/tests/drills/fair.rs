//! One project floods the queue; another's operations hardly wait longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_runtime::{Clock, Tasks};
use mainstay_testkit::bench::Sample;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cases::{all, report};
use crate::stage::{GLANCE, OPERATIONS, Stage, operation};

/// Of the flooding project, for each of the other's.
const FLOOD: usize = 100;
/// Operations of one request.
const BATCH: usize = 100;
/// How often the other project orders one.
const PACE: Duration = Duration::from_millis(100);
/// How long that takes its worker.
const WORK: Duration = Duration::from_millis(50);

/// What the flooding project orders.
#[derive(Debug, Clone, Copy)]
enum Flood {
    /// Operations that hold their workers: they lie there before the other begins, and all of the project's share is taken.
    OfWork,
    /// Operations that are over at once: they go on while the other works.
    OfWrites,
}

fn of(project: &str, name: &str, flood: Option<Flood>) -> Value {
    let takes = |time: Option<Duration>| {
        let payload = json!({ "harm": "time", "millis": time.map(|time| time.as_millis()) });
        json!({ "handler": "drill-poison", "payload": payload, "timeoutSeconds": 600, "project": project })
    };
    let spec = match flood {
        Some(Flood::OfWork) => takes(None),
        Some(Flood::OfWrites) => json!({ "handler": "noop", "project": project }),
        None => takes(Some(WORK)),
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
            tokio::time::sleep(GLANCE).await;
            continue;
        }
        order(&stage, Flood::OfWrites, count).await?;
        count += BATCH;
    }
    Ok(count)
}

/// What the other project has of its operations, in milliseconds.
struct Times {
    /// From the order until it is begun.
    waits: Sample,
    /// From the order until it has ended.
    lasts: Sample,
}

/// From the order of one operation until it was begun, and until it had ended, by the machine's one clock.
async fn one(stage: Arc<Stage>, name: String) -> anyhow::Result<(f64, f64)> {
    let began = Clock::system().now();
    stage.client.create(OPERATIONS, &of("quiet", &name, None)).await?;
    let ended = stage.ended(&name, "Succeeded", "").await?;
    let until = |field: &str| {
        let time: jiff::Timestamp = ended["status"][field].as_str().context("a time")?.parse()?;
        anyhow::Ok(time.duration_since(began).as_secs_f64() * 1_000.0)
    };
    Ok((until("startedAt")?, until("finishedAt")?))
}

/// Orders `count` operations, one each [`PACE`], whether or not the others have ended.
async fn paced(stage: &Arc<Stage>, prefix: &str, count: usize, ordered: &AtomicUsize) -> anyhow::Result<Times> {
    let (tasks, mut pace, mut orders) = (Tasks::new(), tokio::time::interval(PACE), Vec::new());
    for at in 0..count {
        pace.tick().await;
        orders.push(tasks.spawn("order", one(stage.clone(), format!("{prefix}-{at}"))));
        ordered.fetch_add(1, Ordering::Relaxed);
    }
    let (mut waits, mut lasts) = (Vec::new(), Vec::new());
    for order in orders {
        let (wait, last) = order.await.context("an order failed")??;
        waits.push(wait);
        lasts.push(last);
    }
    Ok(Times { waits: waits.into_iter().collect(), lasts: lasts.into_iter().collect() })
}

/// Times without the flood and with it, on one server, one right after the other.
async fn round(flood: Flood, count: usize) -> anyhow::Result<(Times, Times)> {
    let (stage, server) = Stage::running().await?;
    let (stage, tasks) = (Arc::new(stage), Tasks::new());
    let (ordered, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    paced(&stage, "warm", count / 4, &AtomicUsize::new(0)).await?;
    let calm = paced(&stage, "calm", count, &AtomicUsize::new(0)).await?;
    let flooded = match flood {
        Flood::OfWork => {
            for from in (0..FLOOD * count).step_by(BATCH) {
                order(&stage, flood, from).await?;
            }
            paced(&stage, "flooded", count, &ordered).await
        }
        Flood::OfWrites => {
            let flooding = tasks.spawn("flood", writes(stage.clone(), ordered.clone(), stop.clone()));
            let flooded = paced(&stage, "flooded", count, &ordered).await;
            stop.store(true, Ordering::Relaxed);
            let floods = flooding.await.context("the flood failed")??;
            ensure!(floods >= FLOOD * count / 2, "that was no flood: {floods}");
            flooded
        }
    };
    drop(server);
    Ok((calm, flooded?))
}

async fn floods(flood: Flood, what: &str) -> anyhow::Result<()> {
    let (rounds, count) = if all() { (3, 200) } else { (1, 20) };
    let (mut moved, mut figures) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for _ in 0..rounds {
        let (calm, flooded) = round(flood, count).await?;
        let ends = |times: &Times| (times.lasts.percentile(50.0), times.lasts.percentile(99.0));
        let ((calm_p50, calm_p99), (p50, p99)) = (ends(&calm), ends(&flooded));
        let (calm_wait, wait) = (calm.waits.percentile(99.0), flooded.waits.percentile(99.0));
        moved.push((p99 / calm_p99 - 1.0) * 100.0);
        figures.push(json!({
            "calm_p50_ms": calm_p50, "calm_p99_ms": calm_p99, "calm_wait_p99_ms": calm_wait,
            "flooded_p50_ms": p50, "flooded_p99_ms": p99, "flooded_wait_p99_ms": wait,
        }));
        // The order of claims is the store's tests' matter; here only that nobody waits for the flood to pass.
        ensure!(wait < 1_000.0, "an operation waited {wait} ms behind another project's");
    }
    let moved: Sample = moved.into_iter().collect();
    report(
        what,
        rounds,
        &json!({
            "p99_moved_percent_median": moved.median(), "rounds": figures, "took_s": began.elapsed().as_secs_f64(),
        }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_work_floods_the_queue_delays_nobody_else() -> anyhow::Result<()> {
    floods(Flood::OfWork, "a flood of work: all of the project's share of workers is taken").await
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_writes_flood_the_disk_leave_room_for_others() -> anyhow::Result<()> {
    floods(Flood::OfWrites, "a flood of writes: they go on while the other works").await
}
