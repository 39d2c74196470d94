//! The leader is parted from the database, in each way in which networks do that: another leads in time, nothing of the one
//! that was parted comes afterwards, and its clients hear that they have to come back.

use std::time::Duration;

use anyhow::ensure;
use jiff::Timestamp;
use mainstay_runtime::{Clock, Tasks};
use mainstay_testkit::proxy::{Direction, Fault};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cases::{drawn, report, run};
use crate::follower::Follower;
use crate::history::History;
use crate::ledger::{Ledger, Said};
use crate::stage::{Fleet, GLANCE, PATIENCE, figures, takes_up};

/// The lease of a controller that always runs.
pub(crate) const LEASE: &str = "namespace";
/// Where the connection is closed, another leads within this.
const CLOSED: Duration = Duration::from_secs(5);
/// Where the host is silent.
pub(crate) const SILENT: Duration = Duration::from_secs(11);
/// What is asked of a server that is parted is answered within this.
const ANSWERED: Duration = Duration::from_secs(30);
/// A network that is bad, but there.
const LATE: Duration = Duration::from_millis(75);
/// How long it stalls, and goes, in turns: half of the time nothing passes.
const STALL: Duration = Duration::from_millis(400);
const STALLS: usize = 20;
/// Writes before and after.
pub(crate) const ENOUGH: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Connections are reset, new ones too.
    Cut,
    /// Nothing passes, in either direction, and nothing is closed.
    Blackhole,
    /// Nothing passes in this direction: half open.
    Half(Direction),
    /// Half of the time nothing passes.
    Stalls,
    /// All of it comes so much later.
    Late,
}

impl Case {
    const ALL: [Self; 6] = [
        Self::Cut,
        Self::Blackhole,
        Self::Half(Direction::ToServer),
        Self::Half(Direction::ToClient),
        Self::Stalls,
        Self::Late,
    ];

    /// Within which time another is to lead, if it is to.
    const fn bound(self) -> Option<Duration> {
        match self {
            Self::Cut => Some(CLOSED),
            Self::Blackhole | Self::Half(_) => Some(SILENT),
            Self::Stalls | Self::Late => None,
        }
    }
}

/// Writers at each replica, one of them as the leader at the leader's, and a watcher that begins at each.
pub(crate) async fn busy(fleet: &Fleet, (term, leader): (u64, usize)) -> anyhow::Result<(Ledger, Vec<Follower>)> {
    let (mut ledger, tasks) = (Ledger::open(), Tasks::new());
    let from = fleet.replicas[0].api.create("first", None).await;
    let from = from.revision().ok_or_else(|| anyhow::anyhow!("{from:?}"))?;
    let mut followers = Vec::new();
    for (at, replica) in fleet.replicas.iter().enumerate() {
        ledger.writes(at, &replica.api, None);
        let mut apis: Vec<_> = fleet.replicas.iter().map(|replica| replica.api.clone()).collect();
        apis.rotate_left(at);
        followers.push(Follower::follow(&tasks, apis, from));
    }
    ledger.writes(leader, &fleet.replicas[leader].api, Some(format!("{LEASE}/{term}")));
    more(&ledger, ENOUGH).await?;
    Ok((ledger, followers))
}

/// Waits until so many more writes were acknowledged.
pub(crate) async fn more(ledger: &Ledger, count: usize) -> anyhow::Result<()> {
    let (begun, enough) = (Instant::now(), ledger.count() + count);
    while ledger.count() < enough {
        ensure!(begun.elapsed() < PATIENCE, "only {} writes of {enough} are done", ledger.count());
        sleep(GLANCE).await;
    }
    Ok(())
}

/// Stops the clients, waits until watchers have seen it all, and gives what was recorded.
pub(crate) async fn settled(fleet: &Fleet, ledger: Ledger, followers: Vec<Follower>) -> anyhow::Result<History> {
    fleet.all_well().await?;
    let told = ledger.close().await?;
    let mut last = 0;
    for (at, replica) in fleet.replicas.iter().enumerate() {
        let answer = replica.api.create(&format!("last-{at}"), None).await;
        last = answer.revision().ok_or_else(|| anyhow::anyhow!("replica {at} does not write: {answer:?}"))?.max(last);
    }
    let mut seen = Vec::new();
    for follower in followers {
        seen.push(follower.ends(last).await?);
    }
    Ok(History { told, seen })
}

/// What clients of a replica were told between two times: all within [`ANSWERED`], and when they have to come back, that.
pub(crate) fn answered(
    said: &[Said],
    replica: usize,
    (from, to): (Instant, Instant),
) -> anyhow::Result<(usize, Duration)> {
    let mut refused = 0;
    let mut longest = Duration::ZERO;
    for one in said.iter().filter(|one| one.replica == replica && one.asked < to && one.asked + one.answer.took > from)
    {
        let answer = &one.answer;
        longest = longest.max(answer.took);
        ensure!(answer.code.is_some() && answer.took <= ANSWERED, "it was not answered: {answer:?}");
        match answer.code {
            Some(429 | 503 | 504) => {
                ensure!(answer.retry_after.is_some(), "nobody says when to come back: {answer:?}");
                refused += 1;
            }
            Some(201 | 409) => {}
            _ => anyhow::bail!("a client was told {answer:?}"),
        }
    }
    Ok((refused, longest))
}

/// Until a replica says by itself that it does not hold the lease any more.
async fn gives_up(fleet: &Fleet, at: usize) -> anyhow::Result<Timestamp> {
    let held = format!("mainstay_lease_held{{lease=\"{LEASE}\"}}");
    let begun = Instant::now();
    loop {
        let asked = Clock::system().now();
        let answer = fleet.replicas[at].api.get("/metrics").await;
        if figures(&answer.text).get(&held) == Some(&0.0) {
            return Ok(asked);
        }
        ensure!(begun.elapsed() < PATIENCE, "it goes on leading");
        sleep(GLANCE).await;
    }
}

async fn parts(case: &Case) -> anyhow::Result<()> {
    let fleet = Fleet::start(3, |_, _| {}).await?;
    fleet.rests().await?;
    let (term, leader) = fleet.leader(LEASE).await?;
    let (mut ledger, followers) = busy(&fleet, (term, leader)).await?;
    let link = &fleet.replicas[leader].link;
    let (parted, began) = (Clock::system().now(), Instant::now());
    match case {
        Case::Cut => {
            link.set(Fault::Reset).await?;
            link.cut();
        }
        Case::Blackhole => link.set(Fault::Blackhole).await?,
        Case::Half(direction) => link.set(Fault::Half(*direction)).await?,
        Case::Late => link.set(Fault::Delay(LATE)).await?,
        Case::Stalls => {
            for _ in 0..STALLS {
                link.set(Fault::Blackhole).await?;
                sleep(STALL).await;
                link.set(Fault::Pass).await?;
                sleep(STALL).await;
            }
        }
    }
    let mut figures = json!({});
    if let Some(bound) = case.bound() {
        let ((taken, next), gave_up) = tokio::try_join!(fleet.next_term(LEASE, term), gives_up(&fleet, leader))?;
        let took = taken.duration_since(parted).unsigned_abs();
        figures["takeover_s"] = took.as_secs_f64().into();
        ensure!(took <= bound, "{case:?}: another leads after {took:?} only");
        if *case != Case::Cut {
            let alone = taken.duration_since(gave_up).as_secs_f64();
            figures["gave_up_before_s"] = alone.into();
            ensure!(alone > 0.0, "{case:?}: it still led {alone} s after another did");
        }
        let (_, now) = fleet.leader(LEASE).await?;
        ensure!(now != leader, "{case:?}: the one that is parted leads in term {next}");
        ledger.writes(now, &fleet.replicas[now].api, Some(format!("{LEASE}/{next}")));
    } else {
        more(&ledger, ENOUGH).await?;
        ensure!(fleet.leader(LEASE).await? == (term, leader), "{case:?}: another leads, and there was no need");
    }
    more(&ledger, ENOUGH).await?;
    link.set(Fault::Pass).await?;
    let healed = Instant::now();
    more(&ledger, ENOUGH).await?;
    let history = settled(&fleet, ledger, followers).await?;
    let (refused, longest) = answered(&history.told.said, leader, (began, healed))?;
    let verdict = history.judge(&fleet).await?;
    ensure!(case.bound().is_none() || verdict.deposed > 0, "no write of an old term was refused: {verdict:?}");
    ensure!(*case != Case::Cut || refused > 0, "no client was told to come back");
    figures["refused"] = refused.into();
    figures["longest_answer_s"] = longest.as_secs_f64().into();
    figures["acknowledged"] = verdict.acknowledged.into();
    figures["stale_refused"] = verdict.deposed.into();
    report(&format!("D4 leader parted: {case:?}"), 1, &figures)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_parted_from_the_database_is_followed_in_time() -> anyhow::Result<()> {
    if !takes_up("a leader is parted", 2) {
        return Ok(());
    }
    run("D4 leader parted from the database", drawn("partitions", Case::ALL.to_vec(), 1), parts).await
}
