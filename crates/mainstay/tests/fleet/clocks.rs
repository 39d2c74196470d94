//! Replicas whose clocks differ, or run too fast: no lease expires early, and a leader that dies is followed as ever.

use std::time::Duration;

use anyhow::ensure;
use jiff::Timestamp;
use mainstay_runtime::Clock;
use serde_json::json;
use tokio::time::sleep;

use crate::cases::{drawn, report, run};
use crate::parted::{ENOUGH, LEASE, busy, more, settled};
use crate::stage::{Fleet, takes_up};

/// Debian's.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// Longer than a silent leader keeps its lease.
const CALM: Duration = Duration::from_secs(13);
/// A leader that is killed is followed within this.
const FOLLOWED: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// An hour ahead, right, an hour behind.
    Hours,
    /// Thirty seconds between each.
    Seconds,
    /// One runs 5 % fast, another 5 % slow, the monotonic clock with it.
    Drift,
}

impl Case {
    const ALL: [Self; 3] = [Self::Hours, Self::Seconds, Self::Drift];

    /// What each replica is told of time, and whether of the monotonic clock, too.
    const fn told(self, at: usize) -> (&'static str, bool) {
        match (self, at) {
            (Self::Hours, 0) => ("+1h", false),
            (Self::Hours, 2) => ("-1h", false),
            (Self::Seconds, 0) => ("+30s", false),
            (Self::Seconds, 2) => ("-30s", false),
            (Self::Drift, 0) => ("+0 x1.05", true),
            (Self::Drift, 2) => ("+0 x0.95", true),
            _ => ("+0", false),
        }
    }
}

/// How far ahead of this process's clock a replica's is, in seconds.
async fn ahead(fleet: &Fleet, at: usize) -> anyhow::Result<i64> {
    let made = fleet.replicas[at].api.create(&format!("made-by-{at}"), None).await;
    let text = made.json()["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    Ok(text.parse::<Timestamp>()?.duration_since(Clock::system().now()).as_secs())
}

/// Leases that went from one holder to another and were not handed back in between.
async fn taken(fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    fleet
        .sql(
            "SELECT lease, before, holder, term FROM (
                SELECT *, lag(holder) OVER (PARTITION BY lease ORDER BY n) AS before FROM mainstay.drill_terms) t
             WHERE before <> '' AND before <> holder AND holder <> ''",
        )
        .await
}

async fn differ(case: &Case) -> anyhow::Result<()> {
    let mut fleet = Fleet::start(3, |at, server| {
        let (time, monotonic) = case.told(at);
        server.set_env("LD_PRELOAD", Some(LIBRARY));
        server.set_env("FAKETIME", Some(time));
        server.set_env("FAKETIME_DONT_FAKE_MONOTONIC", Some(if monotonic { "0" } else { "1" }));
    })
    .await?;
    let apart = ahead(&fleet, 0).await? - ahead(&fleet, 2).await?;
    ensure!(*case == Case::Drift || apart >= 58, "the clocks do not differ: {apart} s");
    fleet.rests().await?;
    let (ledger, followers) = busy(&fleet, fleet.leader(LEASE).await?).await?;
    sleep(CALM).await;
    more(&ledger, ENOUGH).await?;
    let early = taken(&fleet).await?;
    ensure!(early.is_empty(), "{case:?}: taken from who was well: {early:?}");
    let history = settled(&fleet, ledger, followers).await?;
    let verdict = history.judge(&fleet).await?;
    let (term, leader) = fleet.leader(LEASE).await?;
    let killed = Clock::system().now();
    fleet.replicas[leader].server.kill9()?;
    let (at, _) = fleet.next_term(LEASE, term).await?;
    let took = at.duration_since(killed).unsigned_abs();
    ensure!(took <= FOLLOWED, "{case:?}: another leads after {took:?} only");
    let figures = json!({
        "apart_s": apart, "takeover_s": took.as_secs_f64(), "taken_early": early.len(), "acknowledged": verdict.acknowledged,
    });
    report(&format!("D9 clocks differ: {case:?}"), 1, &figures)
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_end_no_lease_early() -> anyhow::Result<()> {
    if !takes_up("clocks", 4) {
        return Ok(());
    }
    run("D9 clocks differ", drawn("clocks", Case::ALL.to_vec(), 1), differ).await
}
