//! Each step fails: drill-backend errs, stalls, answers late, lies, cuts the connection, dies.

use mainstay_testkit::drill_backend::{Die, Fault, Lie, On};
use serde_json::json;

use crate::cases::{drawn, run};
use crate::kind::{Kind, NAME};
use crate::stage::{OPERATIONS, Stage, operation};

/// Longer than an attempt may take here.
const LATE_MILLIS: u64 = 1_500;

/// An operation of which one call meets a fault, once. More of them would mostly wait: the time to the next attempt doubles
/// with each failure of an operation, whichever step it was.
#[derive(Debug, Clone)]
struct Case {
    kind: Kind,
    fault: Fault,
    call: (&'static str, &'static str),
    /// Nor can be seen what became of them, at first.
    blind: bool,
}

fn faults() -> Vec<Fault> {
    let lie = |with, done| Fault::Lie { with, done };
    vec![
        Fault::Stall,
        Fault::StallBody,
        Fault::Status { code: 500, retry_after_seconds: None },
        Fault::Status { code: 429, retry_after_seconds: Some(1) },
        Fault::LateAnswer { millis: LATE_MILLIS },
        Fault::Cut,
        lie(Lie::Nonsense, false),
        lie(Lie::Nonsense, true),
        lie(Lie::Other, false),
        lie(Lie::Other, true),
        lie(Lie::Endless, true),
        Fault::LateEffect { millis: LATE_MILLIS },
        Fault::Die(Die::Before),
        Fault::Die(Die::After),
    ]
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        for &call in kind.calls() {
            cases.extend(faults().into_iter().map(|fault| Case { kind, fault, call, blind: false }));
            cases.push(Case { kind, fault: Fault::StallBody, call, blind: true });
        }
    }
    cases
}

async fn sick(case: &Case) -> anyhow::Result<()> {
    let (mut stage, server) = Stage::running().await?;
    case.kind.prepare(&stage).await?;
    let (backend, verb) = case.call;
    stage.backend.drill(On::verb(backend, verb), case.fault.clone(), Some(1)).await?;
    if case.blind {
        let away = Fault::Status { code: 503, retry_after_seconds: None };
        stage.backend.drill(On::verb(backend, "effect"), away, Some(2)).await?;
    }
    let mut spec = case.kind.spec(NAME);
    spec["timeoutSeconds"] = json!(1);
    stage.client.create(OPERATIONS, &operation(NAME, &spec)).await?;
    if matches!(case.fault, Fault::Die(_)) {
        stage.backend.died().await?;
        stage.backend.restart().await?;
        // It is well now; what refuses for good still does.
        if case.kind == Kind::Refused {
            case.kind.prepare(&stage).await?;
        }
    }
    case.kind.comes_to_its_end(&stage).await?;
    if matches!(case.fault, Fault::LateEffect { .. }) {
        stage.backend.arrived("late", verb, 1).await?;
        case.kind.left_what_it_should(&stage).await?;
    }
    drop(server);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_may_fail_in_each_way() -> anyhow::Result<()> {
    run("drill-backend is sick at each step", drawn("sick steps", cases(), 6), sick).await
}
