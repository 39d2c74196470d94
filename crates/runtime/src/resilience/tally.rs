//! What became of the calls through one gate, counted for metrics: nothing is decided by it.

use std::sync::atomic::{AtomicU64, Ordering};

use tower::Service;

use super::layer::Around;
use super::{CallFailure, Denied, Verdict};
use crate::sync::Arc;

/// Counts, since the gate was made.
#[derive(Debug, Default)]
pub struct Tally {
    calls: AtomicU64,
    attempts: AtomicU64,
    sick: AtomicU64,
    refused: AtomicU64,
    full: AtomicU64,
    late: AtomicU64,
    opened: AtomicU64,
}

/// A tally as it is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that callers made.
    pub calls: u64,
    /// Repeats of them.
    pub repeats: u64,
    /// Attempts that told that the backend is sick, those without an answer in time among them.
    pub sick: u64,
    /// Attempts that the open breaker refused.
    pub refused: u64,
    /// Attempts that found no place in the bulkhead.
    pub full: u64,
    /// Attempts that had no answer in time.
    pub late: u64,
    /// Times that the breaker opened.
    pub opened: u64,
}

impl Tally {
    pub(crate) fn called(&self) {
        add(&self.calls);
    }

    pub(crate) fn opened(&self) {
        add(&self.opened);
    }

    fn ended<T, E: CallFailure>(&self, outcome: &Result<T, E>) {
        add(&self.attempts);
        match outcome.as_ref().err().and_then(CallFailure::denied) {
            Some(Denied::Open { .. }) => add(&self.refused),
            Some(Denied::Full { .. } | Denied::Overloaded) => add(&self.full),
            Some(Denied::TooLate(_)) => {
                add(&self.late);
                add(&self.sick);
            }
            None if Verdict::of(outcome) == Verdict::Sick => add(&self.sick),
            Some(Denied::GivenUp(_)) | None => {}
        }
    }

    /// The counts of now; they may be of slightly different moments.
    pub fn read(&self) -> Counts {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let calls = get(&self.calls);
        Counts {
            calls,
            repeats: get(&self.attempts).saturating_sub(calls),
            sick: get(&self.sick),
            refused: get(&self.refused),
            full: get(&self.full),
            late: get(&self.late),
            opened: get(&self.opened),
        }
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// Stands within the retries and around all else: sees each attempt's end.
impl<S, R> Around<S, R> for Tally
where
    S: Service<R> + Send + 'static,
    S::Error: CallFailure,
    S::Future: Send,
    S::Response: Send,
    R: Send + 'static,
{
    type Response = S::Response;

    async fn call(self: Arc<Self>, mut inner: S, request: R) -> Result<S::Response, S::Error> {
        let outcome = inner.call(request).await;
        self.ended(&outcome);
        outcome
    }
}
