//! A call that was not sent is no failure of its operation: it waits, and holds no worker meanwhile.
//!
//! An open breaker, and a bulkhead without room, say something of the backend or of the load, and nothing of the operation.
//! Were they counted among its attempts, a burst would make dead letters of what was never tried.

use std::borrow::Cow;
use std::time::Duration;

use mainstay_runtime::guard::Guard;
use mainstay_runtime::operation::{At, Progress};
use mainstay_runtime::resilience::{CallFailure, Denied, retry};
use mainstay_runtime::{Doing, Failure};

use crate::CloudError;

/// The shortest wait until it is tried again, and the longest that is ours; docs/resilience.md says why.
const WAIT: retry::Settings =
    retry::Settings { attempts: u32::MAX, base: Duration::from_secs(1), cap: Duration::from_secs(10) };

/// Why a call brought nothing.
#[derive(Debug)]
pub(super) enum Unmet {
    /// It was not sent; it may be in so long.
    NotSent(Duration),
    /// It failed.
    Failed(Failure),
}

impl From<Failure> for Unmet {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Tells what was not sent from what failed.
pub(super) trait Told<T> {
    /// Adds what was being attempted.
    fn told(self, what: impl Into<Cow<'static, str>>) -> Result<T, Unmet>;
}

impl<T> Told<T> for Result<T, CloudError> {
    fn told(self, what: impl Into<Cow<'static, str>>) -> Result<T, Unmet> {
        let refusal = self.as_ref().err().and_then(CallFailure::denied);
        if let Some(retry_in) = refusal.and_then(Denied::not_sent)
            && Guard::Unsent.holds()
        {
            return Err(Unmet::NotSent(retry_in));
        }
        Ok(self.doing(what)?)
    }
}

/// What a step says of its call: of one that was not sent, "not yet".
pub(super) fn said<T: From<Progress>>(at: &At, call: Result<T, Unmet>) -> Result<T, Failure> {
    match call {
        Ok(met) => Ok(met),
        Err(Unmet::NotSent(retry_in)) => Ok(Progress::NotYet(wait(at.key.token, retry_in, rand::random())).into()),
        Err(Unmet::Failed(failure)) => Err(failure),
    }
}

/// Never before `retry_in`; doubles with each attempt up to a bound, and is spread over half as much again, as all that were
/// refused together would come back together. `random` is uniform in [0, 1).
fn wait(attempt: u64, retry_in: Duration, random: f64) -> Duration {
    let repeat = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    WAIT.most(repeat).max(retry_in).mul_f64(1.0 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_shows_how_long_it_waits() {
        let shown = include_str!("../../../../docs/resilience.md");
        let (first, most) = (WAIT.base.as_secs(), WAIT.cap.as_secs());
        for row in
            [format!("| put back when it was not sent | {first} s |"), format!("| put back for at most | {most} s |")]
        {
            assert!(shown.lines().any(|line| line.starts_with(&row)), "docs/resilience.md has no line {row}");
        }
    }

    #[test]
    fn it_comes_back_when_it_may_and_ever_later_up_to_a_bound() {
        let seconds = |attempt, retry_in| wait(attempt, Duration::from_secs(retry_in), 0.0).as_secs();
        assert_eq!([1, 2, 3, 4, 5, 40, u64::MAX].map(|attempt| seconds(attempt, 0)), [1, 2, 4, 8, 10, 10, 10]);
        assert_eq!([seconds(1, 30), seconds(9, 30), seconds(9, 3)], [30, 30, 10]);
        assert_eq!(wait(1, Duration::from_secs(30), 0.999), Duration::from_secs(30).mul_f64(1.4995));
    }
}
