//! The back-off of a reconciled key.
//!
//! A failing key waits a time drawn from [half, full] of 2, 4, 8, 16, 30, 30 ... seconds. Half is kept as a floor so
//! that a failing key cannot come back at once; the other half is jitter so that keys that failed together part.

use std::time::Duration;

const STEPS: [Duration; 5] = [
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(30),
];

/// Consecutive failures of one key; reset on success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyBackoff {
    failures: u32,
}

impl KeyBackoff {
    /// Counts one more failure and draws the time to wait; `random` is uniform in [0, 1).
    pub fn fail(&mut self, random: f64) -> Duration {
        let step = STEPS[(self.failures as usize).min(STEPS.len() - 1)];
        self.failures = self.failures.saturating_add(1);
        step / 2 + (step / 2).mul_f64(random)
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many times in a row the key has failed.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether this count is one at which the object's condition is written: 5, 10, 20, 40 ...
    pub const fn is_milestone(&self) -> bool {
        self.failures >= 5 && self.failures.is_multiple_of(5) && (self.failures / 5).is_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_lie_between_half_and_full_and_are_capped() {
        let (mut low, mut high) = (KeyBackoff::default(), KeyBackoff::default());
        for full in [2, 4, 8, 16, 30, 30, 30] {
            let full = Duration::from_secs(full);
            assert_eq!(low.fail(0.0), full / 2);
            let most = high.fail(0.999_999);
            assert!(most <= full && most > full.mul_f64(0.99), "{most:?} of {full:?}");
        }
    }

    #[test]
    fn milestones_are_5_10_20_40() {
        let mut backoff = KeyBackoff::default();
        let hits: Vec<u32> = (0..100)
            .filter_map(|_| {
                backoff.fail(0.5);
                backoff.is_milestone().then(|| backoff.failures())
            })
            .collect();
        assert_eq!(hits, [5, 10, 20, 40, 80]);
    }
}
