//! How soon another replica leads when the leader dies, or stands still, and does the leader's work.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Method;
use mainstay_runtime::Clock;
use mainstay_testkit::bench::Sample;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::Plan;
use crate::fleet::Fleet;
use crate::link::Link;
use crate::table::{Aim, Row};

const REPLICAS: usize = 3;
/// The lease of who gives projects their namespaces.
const LEASE: &str = "project";
const KILLS: usize = 15;
const FREEZES: usize = 3;
const PATIENCE: Duration = Duration::from_mins(1);
/// Replicas that hold too many leases hand some back in the first seconds.
const REST: Duration = Duration::from_secs(7);

/// Kills, then freezes.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let others = [plan.settle().await];
    let mut fleet = Fleet::start(plan, REPLICAS, false)?;
    let (mut terms, mut works, mut frozen) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..KILLS {
        sleep(REST).await;
        let (leader, before) = leader(&fleet)?;
        let mut link = fleet.access()?[(leader + 1) % REPLICAS].connect().await?;
        let began = (Instant::now(), now_ms());
        fleet.servers[leader].kill9()?;
        works.push(worked(&mut link, &format!("killed-{round}"), began.0).await?);
        terms.push(taken(&fleet, before)? - began.1);
        eprintln!("  killed: leads after {:.0} ms, has worked after {:.0} ms", terms[round], works[round]);
        fleet.servers[leader].restart()?;
    }
    for round in 0..FREEZES {
        sleep(REST).await;
        let (leader, before) = leader(&fleet)?;
        let mut link = fleet.access()?[(leader + 1) % REPLICAS].connect().await?;
        let began = (Instant::now(), now_ms());
        fleet.signal(leader, Signal::STOP)?;
        let worked = worked(&mut link, &format!("frozen-{round}"), began.0).await;
        fleet.signal(leader, Signal::CONT)?;
        eprintln!(
            "  frozen: led after {:.0} ms, has worked after {:.0} ms",
            taken(&fleet, before)? - began.1,
            worked.as_ref().unwrap_or(&-1.0)
        );
        frozen.push(worked? / 1_000.0);
    }
    let row = |what: &str, aim: Aim, unit, runs: &[f64], bound: &str| {
        Row { what, aim, unit, runs, floors: &[], bound, others: &others, bench: "takeover" }.print();
    };
    let most = |runs: &[f64]| runs.iter().copied().collect::<Sample>().max();
    let bound = "PostgreSQL notices the closed connection, wakes who waits, two statements";
    row("leader killed -> the next one leads, p50 of 15", Aim::AtMost(100.0), "ms", &terms, bound);
    row("leader killed -> the next one leads, max of 15", Aim::AtMost(2_000.0), "ms", &[most(&terms)], bound);
    let bound = "the same; then the controller lists what it watches";
    row("leader killed -> its work is done (a project's namespace), p50 of 15", Aim::None, "ms", &works, bound);
    row("leader killed -> its work is done, max of 15", Aim::AtMost(2_000.0), "ms", &[most(&works)], bound);
    let bound = "10 s without a renewal, as the one who waits sees it";
    row("leader frozen -> its work is done elsewhere, max of 3", Aim::AtMost(11.0), "s", &[most(&frozen)], bound);
    Ok(())
}

/// Which server leads, and its term.
fn leader(fleet: &Fleet) -> anyhow::Result<(usize, u64)> {
    let row = fleet.sql(&format!("SELECT holder, term FROM mainstay.leases WHERE name = '{LEASE}'"))?;
    let (holder, term) = row.split_once('|').with_context(|| format!("a lease {LEASE}"))?;
    for at in 0..fleet.servers.len() {
        if fleet.name(at)? == holder {
            return Ok((at, term.parse()?));
        }
    }
    anyhow::bail!("{holder:?} is none of ours")
}

/// When a later term began, in milliseconds since 1970: the row says when it was taken until it is renewed, some seconds later.
fn taken(fleet: &Fleet, before: u64) -> anyhow::Result<f64> {
    let row = fleet.sql(&format!("SELECT term, renewed FROM mainstay.leases WHERE name = '{LEASE}'"))?;
    let (term, at) = row.split_once('|').context("a lease")?;
    ensure!(term.parse::<u64>()? > before, "nobody has taken the lease");
    Ok(at.parse()?)
}

/// The wall clock, in milliseconds since 1970.
fn now_ms() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "of this century, to the millisecond")]
    let now = Clock::system().now().as_millisecond() as f64;
    now
}

/// Milliseconds until a new project has its namespace.
async fn worked(link: &mut Link, name: &str, began: Instant) -> anyhow::Result<f64> {
    let project =
        json!({ "apiVersion": "mainstay.dev/v1alpha1", "kind": "Project", "metadata": { "name": name }, "spec": {} });
    link.send(Method::POST, "/apis/mainstay.dev/v1alpha1/projects", project.to_string()).await?;
    while link.send(Method::GET, &format!("/api/v1/namespaces/{name}"), "").await.is_err() {
        ensure!(began.elapsed() < PATIENCE, "no namespace {name}");
        sleep(Duration::from_millis(1)).await;
    }
    Ok(began.elapsed().as_secs_f64() * 1_000.0)
}
