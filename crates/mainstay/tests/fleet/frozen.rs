//! A leader, and a worker, stand still for longer than their leases, and then go on: what they say late is refused and counted.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::join_all;
use mainstay_runtime::{Clock, Tasks};
use mainstay_testkit::drill_backend::{DrillBackend, Fault, On, doubled};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cases::report;
use crate::parted::{ENOUGH, LEASE, SILENT, busy, more, settled};
use crate::stage::{Fleet, GLANCE, PATIENCE, figures, takes_up};

/// Requests of a leader that come while it stands still.
const WAITING: usize = 20;
/// The lease of an operation, in seconds.
const OPERATION_LEASE: &str = "3";
/// From then on another runs the operation: the lease, the look-out, and some time to get there.
const TAKEN_UP: Duration = Duration::from_secs(8);
/// So late that another has done it by then.
const STRAGGLES_MILLIS: u64 = 10_000;
const OPERATIONS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/operations";

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_writes_nothing_any_more() -> anyhow::Result<()> {
    if !takes_up("a leader stands still", 2) {
        return Ok(());
    }
    let fleet = Fleet::start(3, |_, _| {}).await?;
    fleet.rests().await?;
    let (term, leader) = fleet.leader(LEASE).await?;
    let (mut ledger, followers) = busy(&fleet, (term, leader)).await?;
    // It does not answer who connects while it stands still: these have their connections by then.
    let api = &fleet.replicas[leader].api;
    join_all((0..WAITING).map(|_| api.get("/readyz"))).await;
    let (frozen, fence) = (Clock::system().now(), format!("{LEASE}/{term}"));
    fleet.signal(leader, Signal::STOP)?;
    let tasks = Tasks::new();
    let waiting: Vec<_> = (0..WAITING)
        .map(|at| {
            let (api, fence) = (fleet.replicas[leader].api.clone(), fence.clone());
            tasks.spawn("request", async move { api.create(&format!("stale-{at}"), Some(&fence)).await })
        })
        .collect();
    let (taken, next) = fleet.next_term(LEASE, term).await?;
    let took = taken.duration_since(frozen).unsigned_abs();
    ensure!(took <= SILENT, "another leads after {took:?} only");
    let (_, now) = fleet.leader(LEASE).await?;
    ensure!(now != leader, "the one that stands still leads in term {next}");
    ledger.writes(now, &fleet.replicas[now].api, Some(format!("{LEASE}/{next}")));
    more(&ledger, ENOUGH).await?;
    fleet.signal(leader, Signal::CONT)?;
    let mut refused = 0_u32;
    for answer in join_all(waiting).await {
        let answer = answer.context("a request failed")?;
        match answer.code {
            Some(409) if answer.reason() == "Fenced" => refused += 1,
            // It was not sent, or came before the server had heard of the database again.
            None | Some(503) => {}
            _ => anyhow::bail!("a stale write was answered {answer:?}"),
        }
    }
    more(&ledger, ENOUGH).await?;
    let counted = figures(&fleet.replicas[leader].api.get("/metrics").await.text);
    let counted = counted.get("mainstay_fenced_writes_total").copied().unwrap_or_default();
    // With the one of the client that goes on as the leader.
    ensure!(counted > f64::from(refused), "{refused} and one more were refused, and {counted} counted");
    let history = settled(&fleet, ledger, followers).await?;
    let verdict = history.judge(&fleet).await?;
    let figures = json!({
        "takeover_s": took.as_secs_f64(), "stale_refused": verdict.deposed, "acknowledged": verdict.acknowledged,
        "terms": verdict.terms, "events": verdict.events,
    });
    report("D8 the leader stands still, and goes on", 1, &figures)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_does_nothing_twice_and_is_not_heard() -> anyhow::Result<()> {
    let backend = DrillBackend::start()?;
    let arguments = ["--drill-backend", &backend.url(), "--operation-lease", OPERATION_LEASE];
    let fleet = Fleet::start(3, |_, server| server.set_arguments(&arguments)).await?;
    // The first one's effect is a straggler.
    let late = Fault::LateEffect { millis: STRAGGLES_MILLIS };
    backend.drill(On::verb("compute", "run-task"), late, Some(1)).await?;
    let task = json!({ "image": "web", "command": ["looks", "1"] });
    let operation = json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Operation", "metadata": { "name": "one" },
        "spec": { "handler": "run-task", "payload": task, "timeoutSeconds": 60 },
    });
    let made = fleet.replicas[0].api.call("POST", OPERATIONS, None, &operation).await;
    ensure!(made.code == Some(201), "{made:?}");
    backend.arrived("compute", "run-task", 1).await?;
    let holder = fleet.sql("SELECT holder FROM mainstay.operations WHERE state = 3").await?;
    let holder = holder.first().context("nobody has it")?;
    let worker = fleet.replicas.iter().position(|replica| replica.name == *holder).context("a stranger has it")?;
    fleet.signal(worker, Signal::STOP)?;
    let frozen = Instant::now();
    backend.arrived("compute", "run-task", 2).await?;
    let took = frozen.elapsed();
    ensure!(took <= TAKEN_UP, "it was taken up after {took:?} only");
    let other = &fleet.replicas[(worker + 1) % 3].api;
    let mut ended = other.get(&format!("{OPERATIONS}/one")).await.json();
    while ended["status"]["phase"] != "Succeeded" {
        ensure!(frozen.elapsed() < PATIENCE, "it does not end: {ended}");
        sleep(GLANCE).await;
        ended = other.get(&format!("{OPERATIONS}/one")).await.json();
    }
    ensure!(ended["status"]["history"][0]["reason"] == "Lost", "{ended}");
    fleet.signal(worker, Signal::CONT)?;
    backend.arrived("late", "run-task", 1).await?;
    let refused = loop {
        let counted = figures(&fleet.replicas[worker].api.get("/metrics").await.text);
        match counted.get("mainstay_operation_fenced_total") {
            Some(count) if *count > 0.0 => break *count,
            _ => ensure!(frozen.elapsed() < PATIENCE, "what it said late was not refused"),
        }
        sleep(GLANCE).await;
    };
    let effects = backend.effects().await?;
    ensure!(doubled(&effects).is_empty() && effects.len() == 1, "{effects:#?}");
    let stragglers = backend.refusals().await?.len();
    let figures =
        json!({ "taken_up_s": took.as_secs_f64(), "late_words_refused": refused, "stragglers_refused": stragglers });
    report("D8 a worker stands still, and goes on", 1, &figures)
}
