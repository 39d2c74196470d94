//! Watch delivery: 100 watchers, each with a connection of its own, at 500 creates per second.
//!
//! Each event's time runs from the moment before its create is sent to the moment its line is read. Every watcher must
//! read every event once, with revisions that only grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Method;
use mainstay_testkit::bench::{Sample, fdatasync, usage};
use mainstay_testkit::server::Server;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::Plan;
use crate::creates::{MAPS, map};
use crate::link::{Access, Lines};
use crate::table::{Aim, Floor, Row};

const WATCHERS: usize = 100;
const EVENTS: usize = 5_000;
const PERIOD: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_mins(1);

/// How a watcher is connected.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    /// As kube-rs and the Python client are.
    Http1,
    /// As kubectl and client-go are.
    Http2,
}

/// With 100 watchers, and beside it with a single one.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    for (watchers, over) in [(1, Over::Http1), (WATCHERS, Over::Http1), (WATCHERS, Over::Http2)] {
        let version = if over == Over::Http1 { "HTTP/1.1" } else { "HTTP/2" };
        let (mut middle, mut tail, mut syncs, mut others) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut server_cpu, mut client_cpu) = (Vec::new(), Vec::new());
        for _ in 0..plan.runs(5) {
            others.push(plan.settle().await);
            let server = Server::start(&plan.exe)?;
            let access = Access::of(&server.kubeconfig())?;
            let pid = server.pid().context("a server")?;
            let cpu = (usage(pid)?.cpu, usage(std::process::id())?.cpu);
            let (sample, rate) = deliver(&access, watchers, over).await?;
            let sync = fdatasync(server.scratch(), 500)?.median();
            let used = (usage(pid)?.cpu - cpu.0, usage(std::process::id())?.cpu - cpu.1);
            eprintln!(
                "  {watchers} watchers over {version} at {rate:.0} creates/s: {} events, p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms; CPU of \
                 the server {:.1} s, of the clients {:.1} s; fdatasync p50 {sync:.3} ms",
                sample.len(),
                sample.median(),
                sample.percentile(99.0),
                sample.max(),
                used.0,
                used.1,
            );
            middle.push(sample.median());
            tail.push(sample.percentile(99.0));
            syncs.push(sync);
            server_cpu.push(used.0);
            client_cpu.push(used.1);
        }
        let row = |which: &str, aim: Aim, runs: &[f64], bound: &str| {
            Row {
                what: &format!(
                    "watch delivery, {watchers} watchers over {version} at 500 creates/s, {which}; none missed, doubled, \
                     out of order"
                ),
                aim,
                unit: "ms",
                runs,
                floors: &[Floor { what: "fdatasync p50", unit: "ms", runs: &syncs }],
                bound,
                others: &others,
                bench: "watch",
            }
            .print();
        };
        let median = |runs: &[f64]| runs.iter().copied().collect::<Sample>().median();
        let bound = format!(
            "CPU of 10 s at this rate: {:.1} s in the server, {:.1} s in the watchers' process",
            median(&server_cpu),
            median(&client_cpu)
        );
        row("p50", Aim::None, &middle, &bound);
        row("p99", if watchers == WATCHERS { Aim::AtMost(5.0) } else { Aim::None }, &tail, &bound);
    }
    Ok(())
}

/// The times of all deliveries, and creates per second.
async fn deliver(access: &Access, watchers: usize, over: Over) -> anyhow::Result<(Sample, f64)> {
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..EVENTS).map(|_| AtomicU64::new(0)).collect());
    let (mut link, epoch) = (access.connect().await?, Instant::now());
    let list: Value = serde_json::from_slice(&link.send(Method::GET, MAPS, "").await?)?;
    let from = list["metadata"]["resourceVersion"].as_str().context("a revision")?;
    let mut readers = Vec::new();
    for _ in 0..watchers {
        let path = format!("{MAPS}?watch=1&resourceVersion={from}");
        let (lines, link) = match over {
            Over::Http1 => (access.lines(&path).await?, None),
            Over::Http2 => {
                let mut link = access.connect().await?;
                (link.lines(&path).await?, Some(link))
            }
        };
        let read = read(lines, Arc::clone(&sent), epoch);
        readers.push(access.tasks().spawn("watcher", async move {
            let _link = link;
            timeout(PATIENCE, read).await.context("events are missing")?
        }));
    }
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = Instant::now();
    let mut creates = Vec::new();
    for (number, slot) in sent.iter().enumerate() {
        ticks.tick().await;
        let (mut link, body) = (link.clone(), map(&format!("fan-{number:06}")));
        slot.store(u64::try_from(epoch.elapsed().as_nanos())?, Ordering::Relaxed);
        creates.push(access.tasks().spawn("create", async move { link.send(Method::POST, MAPS, body).await }));
    }
    for create in creates {
        create.await??;
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = EVENTS as f64 / began.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for reader in readers {
        times.extend(reader.await??);
    }
    ensure!(times.len() == watchers * EVENTS, "{} deliveries instead of {}", times.len(), watchers * EVENTS);
    Ok((Sample::of_times(times), rate))
}

/// Reads all events; each once, in the order of revisions.
async fn read(mut lines: Lines, sent: Arc<Vec<AtomicU64>>, epoch: Instant) -> anyhow::Result<Vec<Duration>> {
    let (mut times, mut revision, mut seen) = (Vec::with_capacity(EVENTS), 0, vec![false; EVENTS]);
    while times.len() < EVENTS {
        let line = lines.next().await?;
        let now = epoch.elapsed();
        let number = usize::try_from(number_after(&line, b"\"name\":\"fan-").context("a name")?)?;
        let this = number_after(&line, b"\"resourceVersion\":\"").context("a revision")?;
        ensure!(this > revision, "revision {this} after {revision}");
        let seen = seen.get_mut(number).context("a name of ours")?;
        ensure!(!std::mem::replace(seen, true), "fan-{number} came twice");
        revision = this;
        let slot = sent.get(number).context("a name of ours")?;
        times.push(now.saturating_sub(Duration::from_nanos(slot.load(Ordering::Relaxed))));
    }
    Ok(times)
}

/// The number that follows the last `mark`; the metadata is at a frame's end.
fn number_after(line: &[u8], mark: &[u8]) -> Option<u64> {
    let at = line.windows(mark.len()).rposition(|window| window == mark)? + mark.len();
    let digits = line.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
