//! The store's queue of operations on its own: claims and settlements of operations that do nothing, and what a backlog
//! of a million costs a claim and the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use mainstay_store::operation::{Claim, Claimed, Claims, OPERATIONS, Queue as _, Queued, Settlement, State};
use mainstay_store::{Draft, Key, Meta, Options, SqliteStore, Store as _, StoreError, Write};
use mainstay_testkit::bench::{Sample, fdatasync, usage};
use tokio::time::Instant;

use crate::Plan;
use crate::table::{Aim, Floor, Row};

/// Operations of a run, claimed so many at a time, by so many who claim and settle.
const COUNT: usize = 40_000;
const BATCH: usize = 64;
const WORKERS: usize = 8;
/// Claims that are timed, one after the other.
const CLAIMS: usize = 500;
const BACKLOG: usize = 1_000_000;
/// Bytes of an object, about.
const BYTES: usize = 600;

/// The rate, then a claim's time with nothing else and with a backlog waiting, and the memory.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let (mut rates, mut syncs, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.runs(3) {
        others.push(plan.settle().await);
        let dir = tempfile::tempdir()?;
        syncs.push(fdatasync(dir.path(), 200)?.percentile(50.0));
        let store = SqliteStore::open(Options::new(dir.path()))?;
        enqueue(&store, 0..COUNT).await?;
        rates.push(drain(&store).await?);
        store.close().await;
    }
    Row {
        what: "operations claimed and settled on the store, 64 a claim",
        aim: Aim::AtLeast(15_000.0),
        unit: "per s",
        runs: &rates,
        floors: &[Floor { what: "fdatasync, p50", unit: "ms", runs: &syncs }],
        bound: "the one writer's statements, and a commit for what waits",
        others: &others,
        bench: "queue",
    }
    .print();
    backlog(plan).await
}

async fn backlog(plan: &Plan) -> anyhow::Result<()> {
    let others = [plan.settle().await];
    let dir = tempfile::tempdir()?;
    let store = SqliteStore::open(Options::new(dir.path()))?;
    let resident = || usage(std::process::id()).map(|usage| usage.anonymous);
    enqueue(&store, 0..CLAIMS).await?;
    let few = claims(&store).await?;
    let before = resident()?;
    enqueue(&store, CLAIMS..BACKLOG + CLAIMS).await?;
    let after = resident()?;
    let many = claims(&store).await?;
    store.close().await;
    drop(store);
    let began = Instant::now();
    let store = SqliteStore::open(Options::new(dir.path()))?;
    eprintln!(
        "  opened with {BACKLOG} operations in {:.3} s; p99 of a claim {:.2} ms",
        began.elapsed().as_secs_f64(),
        many.percentile(99.0)
    );
    store.close().await;
    Row {
        what: "a claim of one operation with 1,000,000 waiting, p50",
        aim: Aim::AtMost((200.0 * few.percentile(50.0)).round() / 100.0),
        unit: "ms",
        runs: &[many.percentile(50.0)],
        floors: &[Floor { what: "with none but those claimed", unit: "ms", runs: &[few.percentile(50.0)] }],
        bound: "a commit",
        others: &others,
        bench: "queue",
    }
    .print();
    Row {
        what: "anonymous memory with 1,000,000 operations waiting",
        aim: Aim::None,
        unit: "MB",
        runs: &[after],
        floors: &[Floor { what: "with 500", unit: "MB", runs: &[before] }],
        bound: "recent changes for watches, 16 MiB, with what they replaced; the database's caches",
        others: &others,
        bench: "queue",
    }
    .print();
    Ok(())
}

fn content(number: usize, queued: bool) -> Draft {
    let queued = queued.then(|| Arc::new(Queued::new("bench", "noop")));
    Draft {
        head: format!("{{\"payload\":\"{}\",\"metadata\":{{\"resourceVersion\":\"", "x".repeat(BYTES)).into(),
        tail: "\"}}".into(),
        meta: Arc::new(Meta { uid: format!("00000000-0000-4000-8000-{number:012}").into(), ..Meta::default() }),
        queued,
    }
}

async fn enqueue(store: &Arc<SqliteStore>, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
    let create = |number: usize| {
        let key = Key::new(OPERATIONS, "bench", format!("{number:012}"));
        store.write(Write::Create { key, draft: content(number, true), requires: None })
    };
    let creates = futures::stream::iter(numbers).map(create).buffer_unordered(WORKERS * BATCH);
    creates.try_for_each(|_| async { Ok(()) }).await.context("enqueue")
}

async fn claim(store: &SqliteStore, limit: usize) -> Result<Claims, StoreError> {
    store.claim(Claim { limit, per_lane: usize::MAX >> 1, lease: Duration::from_secs(15), now_ms: 1 }).await
}

/// Operations a second.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
async fn drain(store: &Arc<SqliteStore>) -> anyhow::Result<f64> {
    let left = AtomicUsize::new(COUNT);
    let began = Instant::now();
    let worker = async || {
        while left.load(Ordering::Relaxed) > 0 {
            let claimed = claim(store, BATCH).await?.claimed;
            let end = |one: &Claimed| {
                let number = one.object.key.name.parse().unwrap_or(0);
                let (key, expected) = (one.object.key.clone(), one.object.revision);
                let write = Box::new(Write::Update { key, draft: content(number, false), expected });
                store.settle(&one.attempt, Settlement::End { state: State::Succeeded, note: None, write })
            };
            try_join_all(claimed.iter().map(end)).await?;
            left.fetch_sub(claimed.len(), Ordering::Relaxed);
        }
        Ok::<(), StoreError>(())
    };
    try_join_all((0..WORKERS).map(|_| worker())).await?;
    ensure!(left.load(Ordering::Relaxed) == 0, "more were settled than there are");
    Ok(COUNT as f64 / began.elapsed().as_secs_f64())
}

/// Times of claims of one each; what was claimed is put off.
async fn claims(store: &Arc<SqliteStore>) -> anyhow::Result<Sample> {
    let mut times = Vec::with_capacity(CLAIMS);
    for _ in 0..CLAIMS {
        let began = Instant::now();
        let claims = claim(store, 1).await?;
        times.push(began.elapsed());
        let one = claims.claimed.first().context("nothing to claim")?;
        store.settle(&one.attempt, Settlement::Later { run_at_ms: i64::MAX }).await?;
    }
    Ok(Sample::of_times(times))
}
