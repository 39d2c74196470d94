//! Durable creates of 1 KB at 1, 16 and 64 callers, beside the disk's own sync in the same run, and watch fan-out.
//!
//!     cargo run --release -p mainstay-store --example store_bench [DIR]

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first failure")]
#![expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "figures for people")]

use std::io::{Seek, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mainstay_runtime::Tasks;
use mainstay_store::{Draft, Key, Meta, Options, Revision, Scope, SqliteStore, Store, Write};
use tokio::time::Instant;

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned())).unwrap();
    let floor = sync_floor(dir.path());
    println!("fdatasync of 16 KiB: p50 {:.0} us, p99 {:.0} us", percentile(&floor, 50), percentile(&floor, 99));
    let store = SqliteStore::open(Options::new(dir.path().join("data"))).unwrap();
    let empty = resident();
    for _ in 0..10 {
        let writes = (0..1_000).map(|_| store.write(create(NEXT.fetch_add(1, Ordering::Relaxed))));
        assert!(futures::future::join_all(writes).await.iter().all(Result::is_ok));
    }
    println!("resident: {empty:.1} MB empty, {:.1} MB with 10,000 objects of 1 KB", resident());
    creates(&store, 1, Duration::from_secs(1), "warm-up").await;
    for callers in [1, 16, 64] {
        creates(&store, callers, Duration::from_secs(3), "creates").await;
    }
    fan_out(&store, 100, 500, Duration::from_secs(5)).await;
    let before = Instant::now();
    store.compact(store.revision()).await.unwrap();
    println!("compaction of everything: {:?}, {:?}", before.elapsed(), store.stats());
    store.close().await;
    let before = Instant::now();
    drop(store);
    let store = SqliteStore::open(Options::new(dir.path().join("data"))).unwrap();
    println!("reopening {} objects: {:?}", store.stats().objects, before.elapsed());
}

fn sync_floor(dir: &Path) -> Vec<f64> {
    let mut file = std::fs::File::create(dir.join("floor")).unwrap();
    file.write_all(&vec![1; 4 << 20]).unwrap();
    file.sync_all().unwrap();
    let mut times = Vec::new();
    for turn in 0..2_000 {
        file.seek(std::io::SeekFrom::Start((turn % 200) * 16_384)).unwrap();
        file.write_all(&[2; 16_384]).unwrap();
        let before = Instant::now();
        file.sync_data().unwrap();
        times.push(before.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

fn create(name: u64) -> Write {
    let key = Key::new("/configmaps", "bench", format!("object-{name:08}"));
    let head = format!("{{\"data\":\"{}\",\"metadata\":{{\"resourceVersion\":\"", "x".repeat(960));
    let meta = Arc::new(Meta { uid: format!("00000000-0000-4000-8000-{name:012}").into(), ..Meta::default() });
    Write::Create { key, draft: Draft { head: head.into(), tail: "\"}}".into(), meta } }
}

/// CPU seconds of this process, on all threads.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Megabytes of this process in memory.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / 1e6
}

static NEXT: AtomicU64 = AtomicU64::new(0);

async fn creates(store: &Arc<SqliteStore>, callers: usize, span: Duration, what: &str) {
    let tasks = Tasks::new();
    let (start, commits, cpu) = (Instant::now(), store.stats().commits, cpu());
    let work = (0..callers).map(|_| {
        let store = Arc::clone(store);
        tasks.spawn("caller", async move {
            let mut times = Vec::new();
            while start.elapsed() < span {
                let before = Instant::now();
                store.write(create(NEXT.fetch_add(1, Ordering::Relaxed))).await.unwrap();
                times.push(before.elapsed().as_secs_f64() * 1e6);
            }
            times
        })
    });
    let mut times: Vec<f64> = futures::future::join_all(work).await.into_iter().flat_map(Result::unwrap).collect();
    times.sort_by(f64::total_cmp);
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    let commits = (store.stats().commits - commits) as f64;
    println!(
        "{what}, {callers} callers: {rate:.0}/s, p50 {:.0} us, p99 {:.0} us, {:.1} writes per commit, commit {:.0} us, {:.1} us of CPU a write",
        percentile(&times, 50),
        percentile(&times, 99),
        times.len() as f64 / commits,
        start.elapsed().as_secs_f64() * 1e6 / commits,
        (self::cpu() - cpu) * 1e6 / times.len() as f64,
    );
}

async fn fan_out(store: &Arc<SqliteStore>, watchers: usize, per_second: u64, span: Duration) {
    let tasks = Tasks::new();
    let base = store.revision();
    let sent = Arc::new((0..100_000).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
    let epoch = Instant::now();
    let count = per_second * span.as_secs();
    let readers: Vec<_> = (0..watchers)
        .map(|_| {
            let (store, sent) = (Arc::clone(store), Arc::clone(&sent));
            tasks.spawn("watcher", async move {
                let mut watch = store.watch(Scope::resource("/configmaps"), base).await.unwrap();
                let (mut times, mut next) = (Vec::new(), base.0 + 1);
                while next <= base.0 + count {
                    for change in watch.next().await.unwrap() {
                        assert_eq!(change.revision(), Revision(next));
                        let began = sent[(next - base.0 - 1) as usize].load(Ordering::Relaxed);
                        times.push(epoch.elapsed().as_secs_f64() * 1e6 - began as f64);
                        next += 1;
                    }
                }
                times
            })
        })
        .collect();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(per_second).unwrap());
    for turn in 0..count {
        tick.tick().await;
        sent[turn as usize].store(epoch.elapsed().as_micros() as u64, Ordering::Relaxed);
        store.write(create(NEXT.fetch_add(1, Ordering::Relaxed))).await.unwrap();
    }
    let mut times: Vec<f64> = futures::future::join_all(readers).await.into_iter().flat_map(Result::unwrap).collect();
    times.sort_by(f64::total_cmp);
    println!(
        "{watchers} watchers at {per_second}/s: {} deliveries, from the call to the watcher p50 {:.0} us, p99 {:.0} us",
        times.len(),
        percentile(&times, 50),
        percentile(&times, 99)
    );
}
