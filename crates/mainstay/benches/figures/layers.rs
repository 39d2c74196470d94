//! What stands between us and a backend, on its own: a healthy call through all layers, and a refusal of an open breaker.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use mainstay_runtime::resilience::gates::{Gate, Gates, Key, Limits};
use mainstay_runtime::resilience::{CallFailure, Denied};
use mainstay_runtime::{Class, Classify};
use tokio::time::Instant;

use crate::Plan;
use crate::table::{Aim, Floor, Row};

const CALLS: u32 = 200_000;

/// As an adapter has them, but for a breaker that stays open while it is measured.
const LIMITS: Limits = {
    let mut limits = Limits::of(Duration::from_secs(30)).places(20);
    limits.breaker.open_for = Duration::from_mins(10);
    limits
};

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("down")]
    Down,
}

impl Classify for Fault {
    fn class(&self) -> Class {
        Class::TRANSIENT
    }
}

impl CallFailure for Fault {
    fn denied(&self) -> Option<&Denied> {
        match self {
            Self::Denied(denied) => Some(denied),
            Self::Down => None,
        }
    }
}

/// Both figures.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let (mut bare, mut healthy, mut refused, mut others) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.runs(5) {
        others.push(plan.settle().await);
        let gates = Gates::new(8);
        let gate = |class| gates.of(&Key { backend: "bench", class, host: Arc::from("here") }, &LIMITS);
        bare.push(each(async || Box::pin(ready(Ok::<_, Fault>(()))).await).await?);
        let well = gate("well");
        healthy.push(each(async || well.call(true, || ready(Ok::<_, Fault>(()))).await).await?);
        let sick = gate("sick");
        for _ in 0..LIMITS.breaker.at_least {
            sick.call(false, || ready(Err::<(), _>(Fault::Down))).await.ok();
        }
        refused.push(each(async || is_refused(&sick).await).await?);
        eprintln!(
            "  bare {:.0} ns, healthy {:.0} ns, refused {:.0} ns",
            bare[bare.len() - 1],
            healthy[healthy.len() - 1],
            refused[refused.len() - 1]
        );
    }
    let row = |what: &str, aim: f64, runs: &[f64]| {
        let floors = [Floor { what: "the call alone", unit: "ns", runs: &bare }];
        let bound = "a clock's reading, a lock and a future on the heap for each layer; a timer";
        Row { what, aim: Aim::AtMost(aim), unit: "ns", runs, floors: &floors, bound, others: &others, bench: "layers" }
            .print();
    };
    row("a healthy call through retry, breaker, bulkhead and deadline", 3_000.0, &healthy);
    row("a call that an open breaker refuses", 1_000.0, &refused);
    Ok(())
}

async fn is_refused(gate: &Gate) -> Result<(), Fault> {
    match gate.call(true, || ready(Ok::<(), Fault>(()))).await {
        Err(Fault::Denied(Denied::Open { .. })) => Ok(()),
        _ => Err(Fault::Down),
    }
}

/// Nanoseconds of a call, of many in turn.
async fn each(call: impl AsyncFn() -> Result<(), Fault>) -> anyhow::Result<f64> {
    let began = Instant::now();
    for _ in 0..CALLS {
        ensure!(call().await.is_ok(), "a call went wrong");
    }
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS))
}
