//! What came of an attempt gets into the store: however long that takes, as long as the attempt is ours.
//!
//! What the store will never take as it is, is said with less: first without how it went and what it gave, then by the
//! row alone. So nothing is tried for ever that cannot succeed.

use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::fault::{self, Point};
use mainstay_runtime::{Class, Classify};
use mainstay_store::operation::{Attempt, Ending, Note, Settlement, Standing, State};
use mainstay_store::{Object, StoreError};
use serde_json::Value;

use crate::held::Hold;
use crate::metrics::outcome_of;
use crate::panics::caught;
use crate::verdict::{Decision, Failed, note};
use crate::workers::{PAUSE, Surroundings};

/// One attempt that is over, and what is to be said of it.
pub(crate) struct Settling<'a> {
    pub(crate) with: &'a Surroundings,
    pub(crate) attempt: &'a Attempt,
    pub(crate) hold: &'a Hold,
    /// The row as it was claimed, and the journal as it is.
    pub(crate) standing: &'a Standing,
    pub(crate) handler: Option<&'static str>,
    pub(crate) decision: &'a Decision,
}

/// How much is said of an end.
#[derive(Debug, Clone)]
enum Extent {
    Whole,
    /// Neither output nor history nor steps.
    Bare,
    /// Nothing but that it is dead. Why the object does not say it.
    Row(Failed),
}

impl Settling<'_> {
    /// Stores it; `object` is the operation's as it was read last. Each time that the store was asked, `asked` is called before
    /// its answer is waited for.
    pub(crate) async fn run(&self, mut object: Arc<Object>, mut asked: impl FnMut()) {
        let mut extent = Extent::Whole;
        while !self.hold.lost.is_cancelled() {
            if fault::hit(Point::OperationBeforeSettle).is_err() {
                self.again().await;
                continue;
            }
            let settlement = self.settlement(&object, &extent);
            let is_buried = matches!(settlement, Settlement::Bury { .. });
            let settled = self.with.queue.settle(self.attempt, settlement);
            asked();
            match settled.await {
                Ok(ended) => {
                    fault::hit(Point::OperationAfterSettle).ok();
                    return self.tell(&object, ended.is_some() || is_buried);
                }
                // It was said before, though that was not heard; or somebody else says it.
                Err(StoreError::Fenced(_)) => return self.with.metrics.fenced(),
                Err(StoreError::Conflict(newer)) => object = newer,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "what came of an operation could not be stored yet");
                    match (&extent, error.class()) {
                        (Extent::Whole, Class::Terminal(_)) => extent = Extent::Bare,
                        (Extent::Bare, Class::Terminal(reason)) => {
                            extent = Extent::Row(Failed::new(reason.as_str(), format!("its end is refused: {error}")));
                        }
                        _ => self.again().await,
                    }
                }
            }
        }
        self.with.metrics.fenced();
    }

    async fn again(&self) {
        self.with.metrics.settle_again();
        tokio::time::sleep(PAUSE).await;
    }

    fn settlement(&self, object: &Object, extent: &Extent) -> Settlement {
        let now_ms = self.with.clock.now().as_millisecond();
        let later = |after: &Duration| now_ms.saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
        match self.decision {
            Decision::Retry { after, failure, undoing } => {
                let note = note(&self.standing.row, failure, now_ms);
                let undoing = undoing.then(|| note.clone());
                Settlement::Retry { run_at_ms: later(after), note, undoing }
            }
            Decision::Later { after } => Settlement::Later { run_at_ms: later(after) },
            Decision::Unbegun { after } => Settlement::Unbegun { run_at_ms: later(after) },
            Decision::End { state, failure, said, output } => {
                let note = failure.as_ref().map(|failure| note(&self.standing.row, failure, now_ms));
                self.end(object, extent, (*state, note, said, output), now_ms)
            }
        }
    }

    fn end(
        &self,
        object: &Object,
        extent: &Extent,
        (state, failed, said, output): (State, Option<Note>, &Failed, &Value),
        at_ms: i64,
    ) -> Settlement {
        let bury = |why: &Failed| Settlement::Bury { note: note(&self.standing.row, why, at_ms) };
        if let Extent::Row(why) = extent {
            return bury(why);
        }
        let Failed { reason, message } = said.clone();
        let mut standing = self.standing.clone();
        if let Some(failed) = failed.clone() {
            standing.row.failed(failed);
        }
        let mut ending = Ending { state, reason, message, output: output.clone(), standing, at_ms };
        if matches!(extent, Extent::Bare) {
            ending.message = "the rest was too much to be stored".into();
            ending.output = Value::Null;
            ending.standing.row.history.clear();
            ending.standing.steps.clear();
        }
        match caught("write an operation's end", || self.with.ledger.end(object, &ending)) {
            Ok(write) => Settlement::End { state, note: failed, write: Box::new(write) },
            Err(failure) => bury(&Failed::from(&failure)),
        }
    }

    fn tell(&self, object: &Object, has_ended: bool) {
        let (operation, metrics) = (&object.key, &self.with.metrics);
        match self.decision {
            Decision::Retry { failure, after, .. } => {
                metrics.came(self.handler, "failed");
                tracing::warn!(%operation, reason = failure.reason, failure = failure.message, ?after, "an operation failed and is tried again");
            }
            Decision::Later { .. } => metrics.came(self.handler, "later"),
            Decision::Unbegun { .. } => {
                tracing::debug!(%operation, "an operation that its workers may have died of waits until it can be alone");
            }
            Decision::End { .. } if !has_ended => {
                metrics.came(self.handler, "failed");
                tracing::warn!(%operation, "an operation failed for the last time, and is taken back: it was cancelled meanwhile");
            }
            Decision::End { state, said, .. } => {
                let outcome = outcome_of(*state);
                metrics.came(self.handler, outcome);
                if outcome == "dead" {
                    tracing::error!(%operation, reason = said.reason, failure = said.message, "an operation is a dead letter");
                }
            }
        }
    }
}
