//! The numbers of a gate. Most follow from one, which only the backend can tell: for how long a call may be waited for.

use std::time::Duration;

use super::super::{breaker, bulkhead, retry};

/// The numbers of one class of operation of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// When to leave it alone.
    pub breaker: breaker::Settings,
    /// How many at a time.
    pub bulkhead: bulkhead::Settings,
    /// How long a call may take.
    pub deadline: Duration,
    /// How often it is repeated.
    pub retry: retry::Settings,
}

impl Limits {
    /// What is usual for calls that may take `deadline`. docs/resilience.md says why for each number.
    pub const fn of(deadline: Duration) -> Self {
        Self {
            breaker: breaker::Settings {
                window: Duration::ZERO,
                at_least: 5,
                failed_percent: 50,
                slow_percent: 80,
                slow: half(deadline),
                open_for: Duration::from_secs(30),
                successes: 2,
            },
            bulkhead: bulkhead::Settings { places: 10, waiting: 10, wait: Duration::from_secs(10) },
            deadline,
            retry: retry::Settings { attempts: 3, base: Duration::from_millis(500), cap: Duration::from_secs(10) },
        }
        .opened_by(5)
    }

    /// It opens after so many calls at the least, which count even if they stalled one after the other.
    #[must_use]
    pub const fn opened_by(mut self, calls: u32) -> Self {
        let (least, stalls) = (Duration::from_secs(30), self.deadline.saturating_mul(calls));
        self.breaker.at_least = calls;
        self.breaker.window = if stalls.as_nanos() > least.as_nanos() { stalls } else { least };
        self
    }

    /// So many calls at a time; as many others may wait.
    #[must_use]
    pub const fn places(mut self, places: usize) -> Self {
        self.bulkhead.places = places;
        self.bulkhead.waiting = places;
        self
    }

    /// So many calls in all.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.retry.attempts = attempts;
        self
    }

    /// The longest that a caller waits for an answer or a failure, whatever the backend does.
    pub const fn bound(&self) -> Duration {
        let each = self.bulkhead.wait.saturating_add(self.deadline);
        let waits = self.retry.cap.saturating_mul(self.retry.attempts.saturating_sub(1));
        each.saturating_mul(self.retry.attempts).saturating_add(waits)
    }
}

const fn half(span: Duration) -> Duration {
    match span.checked_div(2) {
        Some(half) => half,
        None => span,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_stalls_call_after_call_opens_its_breaker() {
        for deadline in [1, 10, 120, 600].map(Duration::from_secs) {
            for calls in [3, 5] {
                let breaker = Limits::of(deadline).opened_by(calls).breaker;
                assert!(breaker.window >= deadline * calls && breaker.window >= Duration::from_secs(30));
            }
        }
    }

    #[test]
    fn a_caller_waits_for_each_attempt_and_between_them() {
        let limits = Limits::of(Duration::from_secs(30));
        assert_eq!(limits.bound(), Duration::from_secs(3 * (10 + 30) + 2 * 10));
        assert_eq!(limits.attempts(1).bound(), Duration::from_secs(40));
    }
}
