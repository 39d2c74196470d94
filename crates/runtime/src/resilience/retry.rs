//! Repeating what failed: seldom, late, and only what may be repeated.
//!
//! At most `attempts` in all; before the n-th repeat a time drawn from [0, min(cap, base * 2^n)] ("full jitter", M.
//! Brooker, *Exponential Backoff and Jitter*, AWS 2015). A backend's repeats are at most a tenth of its calls, from a
//! [`Budget`] that all callers share: when everything fails, load grows by a tenth and not threefold. What one of our own
//! layers refused is not repeated: that would be load without a call. A repeat that is refused leaves what is known from
//! the call before it: that one was sent.

use std::time::Duration;

use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::deadline::Bounded;
use super::layer::Around;
use super::{CallFailure, lock};
use crate::failure::Class;
use crate::guard::Guard;
use crate::sync::{Arc, Mutex};

/// How often, and how late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Calls in all.
    pub attempts: u32,
    /// The longest wait before the first repeat; doubles with each.
    pub base: Duration,
    /// No wait is longer. Who asks for more (Retry-After) is not asked again here.
    pub cap: Duration,
}

impl Settings {
    /// The wait before repeat `n`, from 0; `random` is uniform in [0, 1).
    pub fn wait(&self, n: u32, random: f64) -> Duration {
        self.most(n).mul_f64(random)
    }

    /// The longest wait before repeat `n`, from 0: doubles with each, up to the cap.
    pub fn most(&self, n: u32) -> Duration {
        self.base.saturating_mul(1_u32.checked_shl(n).unwrap_or(u32::MAX)).min(self.cap)
    }
}

/// A request that knows whether it may be sent again.
pub trait Repeatable: Sized {
    /// The same again, if a second arrival does no harm: it only reads, or carries a key by which the backend knows it.
    fn again(&self) -> Option<Self>;
}

/// What may be spent on repeats: a tenth of the calls made, saved up to [`Budget::MOST`].
#[derive(Debug)]
pub struct Budget(Mutex<u32>);

impl Budget {
    /// A repeat costs as much as so many calls bring in.
    const COST: u32 = 10;
    /// Repeats that can be saved, and that a new budget has.
    pub const MOST: u32 = 10;

    /// Full.
    pub fn new() -> Self {
        Self(Mutex::new(Self::MOST * Self::COST))
    }

    /// Counts a call.
    pub fn deposit(&self) {
        let mut saved = lock(&self.0);
        *saved = (*saved + 1).min(Self::MOST * Self::COST);
    }

    /// Repeats that can be paid for.
    pub fn left(&self) -> u32 {
        *lock(&self.0) / Self::COST
    }

    /// Pays for a repeat, if it can be.
    pub fn withdraw(&self) -> bool {
        let mut saved = lock(&self.0);
        let left = saved.checked_sub(Self::COST);
        *saved = left.unwrap_or(*saved);
        left.is_some()
    }

    /// Gives back what a repeat cost that was not made after all.
    pub fn refund(&self) {
        let mut saved = lock(&self.0);
        *saved = (*saved + Self::COST).min(Self::MOST * Self::COST);
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

/// Repeats calls; see the module.
#[derive(Debug)]
pub struct Retry {
    settings: Settings,
    budget: Arc<Budget>,
}

impl Retry {
    /// `budget` is the backend's.
    pub const fn new(settings: Settings, budget: Arc<Budget>) -> Self {
        Self { settings, budget }
    }

    /// How long to wait before repeat `n` of a call that failed so; `None` when it is not repeated. Only what is repeated
    /// is paid for.
    fn judge(&self, error: &impl CallFailure, n: u32, until: Option<Instant>) -> Option<Duration> {
        if n + 1 >= self.settings.attempts {
            return None;
        }
        let asked = match error.class() {
            Class::Transient { retry_after } if !is_refusal(error) => retry_after.unwrap_or_default(),
            Class::Indeterminate => Duration::ZERO,
            _ => return None,
        };
        let wait = self.settings.wait(n, crate::chance::unit()).max(asked);
        let in_time = until.is_none_or(|until| Instant::now() + wait < until);
        let is_paid = || self.budget.withdraw() || !Guard::RetryBudget.holds();
        (asked <= self.settings.cap && in_time && is_paid()).then_some(wait)
    }
}

/// Whether nothing was sent: one of our own layers said no.
fn is_refusal(error: &impl CallFailure) -> bool {
    error.denied().is_some_and(|denied| denied.not_sent().is_some())
}

impl<S, R> Around<S, R> for Retry
where
    S: Service<R> + Clone + Send + 'static,
    S::Error: CallFailure + Send,
    S::Response: Send,
    S::Future: Send,
    R: Repeatable + Bounded + Send + 'static,
{
    type Response = S::Response;

    async fn call(self: Arc<Self>, mut inner: S, request: R) -> Result<S::Response, S::Error> {
        self.budget.deposit();
        let (until, mut again) = (request.until(), request.again());
        let mut outcome = inner.call(request).await;
        for n in 0.. {
            let Err(error) = &outcome else { break };
            let Some(next) = again.take() else { break };
            let Some(wait) = self.judge(error, n, until) else { break };
            tokio::time::sleep(wait).await;
            again = next.again();
            let repeated = inner.ready().await?.call(next).await;
            if repeated.as_ref().is_err_and(is_refusal) {
                self.budget.refund();
                break;
            }
            outcome = repeated;
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
