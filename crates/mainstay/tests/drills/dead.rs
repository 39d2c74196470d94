//! Operations die at each step, are looked at, and are replayed: then it is as if nothing had happened.

use anyhow::ensure;
use mainstay_testkit::drill_backend::{Fault, On};
use serde_json::json;

use crate::cases::{drawn, report, run};
use crate::kind::{Kind, NAME, site};
use crate::stage::{OPERATIONS, Stage, operation};

/// A step at which an operation dies, and how.
#[derive(Debug, Clone)]
struct Case {
    kind: Kind,
    /// Which of its calls fails, again and again.
    step: usize,
    fault: Fault,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [Kind::Provision, Kind::Deprovision, Kind::RunTask] {
        for step in 0..kind.calls().len() {
            let status = |code| Fault::Status { code, retry_after_seconds: None };
            cases.extend([status(503), status(422), Fault::Cut].map(|fault| Case { kind, step, fault }));
        }
    }
    cases
}

impl Case {
    /// Refused for good: what was done is taken back first.
    fn is_refused(&self) -> bool {
        matches!(self.fault, Fault::Status { code: 422, .. })
    }

    /// How many of the steps have their effect when it is dead.
    fn had(&self) -> usize {
        match (&self.fault, self.kind) {
            (Fault::Cut, _) => self.step + 1,
            (Fault::Status { code: 422, .. }, Kind::Provision | Kind::RunTask) => 0,
            _ => self.step,
        }
    }

    /// What a dead letter has left is what its journal says, and nothing else.
    async fn judge_dead(&self, stage: &Stage) -> anyhow::Result<()> {
        stage.judged().await?;
        let (count, had) = (stage.there().await?.len(), self.had());
        let expected = match self.kind {
            Kind::Provision => had,
            Kind::Deprovision => site(NAME).len() - had,
            _ => 0,
        };
        ensure!(count == expected, "{count} things are there, not {expected}: {:#?}", stage.there().await?);
        Ok(())
    }
}

async fn dies_and_is_replayed(case: &Case) -> anyhow::Result<()> {
    let (stage, server) = Stage::running().await?;
    case.kind.prepare(&stage).await?;
    let (backend, verb) = case.kind.calls()[case.step];
    stage.backend.drill(On::verb(backend, verb), case.fault.clone(), None).await?;
    let mut spec = case.kind.spec(NAME);
    spec["maxAttempts"] = json!(1);
    stage.client.create(OPERATIONS, &operation(NAME, &spec)).await?;
    let reason = if case.is_refused() { "Invalid" } else { "AttemptsExhausted" };
    stage.ended(NAME, "Dead", reason).await?;
    case.judge_dead(&stage).await?;
    stage.backend.calm().await?;
    stage.change(NAME, &json!({ "replays": 1 })).await?.done()?;
    stage.until(NAME, "replayed", |status| status["phase"] == "Succeeded").await?;
    case.kind.left_what_it_should(&stage).await?;
    // With the record goes nothing of what it stands for.
    stage.client.delete(&format!("{OPERATIONS}/{NAME}")).await?;
    stage.gone(&format!("{OPERATIONS}/{NAME}")).await?;
    case.kind.left_what_it_should(&stage).await?;
    drop(server);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_died_at_a_step_is_replayed_as_if_nothing_had_happened() -> anyhow::Result<()> {
    let cases = drawn("dead letters", cases(), 4);
    run("an operation dies at each step and is replayed", cases, dies_and_is_replayed).await
}

/// More deaths than an operation remembers attempts; and with five steps each, more times of them than it may have steps.
const DEATHS: u64 = 13;

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_again_and_again_can_be_replayed_as_often() -> anyhow::Result<()> {
    let (stage, server) = Stage::running().await?;
    let refusal = Fault::Status { code: 422, retry_after_seconds: None };
    stage.backend.drill(On::verb("load-balancer", "deploy"), refusal, None).await?;
    let undone = (NAME, Kind::Provision.spec(NAME), "Invalid");
    let panics = json!({ "handler": "drill-poison", "payload": { "harm": "panic" }, "maxAttempts": 1 });
    for (name, spec, reason) in [undone, ("panics", panics, "AttemptsExhausted")] {
        stage.order(name, &spec).await?;
        for replays in 1..=DEATHS {
            let dead = stage.ended(name, "Dead", reason).await?;
            stage.change(name, &json!({ "replays": replays })).await?.done()?;
            let count = |what: &str| dead["status"][what].as_array().map_or(0, Vec::len);
            ensure!(count("history") <= 10 && count("steps") <= 5, "{dead}");
        }
        stage.ended(name, "Dead", reason).await?;
    }
    let left = stage.there().await?;
    ensure!(left.is_empty(), "left over: {left:#?}");
    drop(server);
    report("an operation dies, and is replayed, again and again", 2, &json!({ "deaths_each": DEATHS + 1 }))
}
