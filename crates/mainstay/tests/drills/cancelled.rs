//! Operations are cancelled, and deleted, at each point: what was done is taken back, also what arrives late.

use anyhow::ensure;
use mainstay_testkit::drill_backend::{Fault, On};
use serde_json::json;

use crate::cases::{drawn, run};
use crate::kind::{Kind, NAME, site};
use crate::stage::{OPERATIONS, Stage, operation};

/// So late that the order to end comes before it.
const LATE_MILLIS: u64 = 700;
/// So late that the attempt is over, and what it did is taken back, when the effect comes.
const TOO_LATE_MILLIS: u64 = 4_000;

const fn too_late() -> Fault {
    Fault::LateEffect { millis: TOO_LATE_MILLIS }
}

/// At which point an operation is told to end.
#[derive(Debug, Clone)]
enum Point {
    /// Before its time has come.
    NotBegun,
    /// While this step's call is answered late, or has its effect late.
    During(Fault, &'static str, &'static str),
    /// While it waits to try this step again.
    Between(&'static str, &'static str),
    /// While it waits for the world.
    Waiting,
    /// While this step's call fails late, which was its last attempt.
    AtLast(&'static str, &'static str),
}

#[derive(Debug, Clone)]
struct Case {
    kind: Kind,
    point: Point,
    /// By its deletion.
    deleted: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [Kind::Provision, Kind::RunTask] {
        let mut points = vec![Point::NotBegun];
        for &(backend, verb) in kind.calls() {
            let late = [Fault::LateAnswer { millis: LATE_MILLIS }, too_late()];
            points.extend(late.map(|fault| Point::During(fault, backend, verb)));
            points.push(Point::Between(backend, verb));
            points.push(Point::AtLast(backend, verb));
        }
        if kind == Kind::RunTask {
            points.push(Point::Waiting);
        }
        for deleted in [false, true] {
            cases.extend(points.iter().map(|point| Case { kind, point: point.clone(), deleted }));
        }
    }
    cases
}

/// Orders it, and waits until it is at the point.
async fn brought_there(stage: &Stage, case: &Case) -> anyhow::Result<()> {
    let mut spec = case.kind.spec(NAME);
    match &case.point {
        Point::NotBegun => spec["runAt"] = json!("2999-01-01T00:00:00Z"),
        // The attempt is given up before the effect is had, and nobody waits for it any more.
        Point::During(Fault::LateEffect { .. }, ..) => spec["timeoutSeconds"] = json!(1),
        Point::Waiting => spec["payload"]["command"] = json!(["looks", "1000000"]),
        Point::AtLast(..) => {
            // Time to get there; less than the effect takes.
            (spec["maxAttempts"], spec["timeoutSeconds"]) = (json!(1), json!(3));
        }
        Point::During(..) | Point::Between(..) => {}
    }
    match &case.point {
        Point::During(fault, backend, verb) => {
            stage.backend.drill(On::verb(backend, verb), fault.clone(), Some(1)).await?;
        }
        Point::AtLast(backend, verb) => {
            stage.backend.drill(On::verb(backend, verb), too_late(), Some(1)).await?;
        }
        Point::Between(backend, verb) => {
            let away = Fault::Status { code: 503, retry_after_seconds: None };
            stage.backend.drill(On::verb(backend, verb), away, None).await?;
        }
        Point::NotBegun | Point::Waiting => {}
    }
    stage.client.create(OPERATIONS, &operation(NAME, &spec)).await?;
    match &case.point {
        Point::NotBegun => Ok(()),
        Point::During(_, backend, verb) | Point::AtLast(backend, verb) => stage.backend.arrived(backend, verb, 1).await,
        Point::Between(..) => {
            let failed = |status: &serde_json::Value| status["failures"].as_u64() > Some(0);
            stage.until(NAME, "tried again", failed).await.map(drop)
        }
        Point::Waiting => {
            let waits = |status: &serde_json::Value| status["reason"] == "NotYet";
            stage.until(NAME, "waiting", waits).await.map(drop)
        }
    }
}

async fn ends(case: &Case) -> anyhow::Result<()> {
    let (stage, server) = Stage::running().await?;
    brought_there(&stage, case).await?;
    let path = format!("{OPERATIONS}/{NAME}");
    let phase = if case.deleted {
        stage.client.delete(&path).await?;
        stage.gone(&path).await?;
        None
    } else {
        stage.change(NAME, &json!({ "cancelled": true })).await?.done()?;
        let is_over =
            |status: &serde_json::Value| ["Cancelled", "Succeeded", "Dead"].iter().any(|word| status["phase"] == *word);
        let ended = stage.until(NAME, "Cancelled", is_over).await?;
        Some(ended["status"]["phase"].as_str().unwrap_or_default().to_owned())
    };
    if let Point::During(Fault::LateEffect { .. }, _, verb) | Point::AtLast(_, verb) = &case.point {
        stage.backend.arrived("late", verb, 1).await?;
    }
    let (effects, there) = (stage.judged().await?, stage.there().await?);
    ensure!(
        !matches!(case.point, Point::AtLast(..)) || phase.as_deref() != Some("Dead"),
        "it died, and was not undone"
    );
    // It may have come to its end before it heard of it.
    let last = case.kind.calls().last().map(|(_, verb)| *verb);
    let at_last = matches!(&case.point, Point::During(_, _, verb) if Some(*verb) == last);
    let whole = if case.kind == Kind::Provision { site(NAME) } else { Vec::new() };
    let may_be_whole = at_last && phase.as_deref() != Some("Cancelled");
    ensure!(
        there.is_empty() || may_be_whole && there == whole,
        "left over: {there:#?}, of {effects:#?}\n{}",
        stage.last_words()
    );
    ensure!(at_last || phase.is_none_or(|phase| phase == "Cancelled"), "it was not cancelled");
    ensure!(!matches!(case.point, Point::NotBegun) || effects.is_empty(), "it was begun: {effects:#?}");
    drop(server);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_to_end_leaves_nothing_wherever_it_is() -> anyhow::Result<()> {
    run("an operation is cancelled, or deleted, at each point", drawn("cancellations", cases(), 4), ends).await
}
