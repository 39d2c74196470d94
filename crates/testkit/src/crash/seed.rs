//! Draws that can be repeated.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::note;

/// Repeats a run's draws: the number that the run printed.
pub const SEED_ENV: &str = "MAINSTAY_SEED";

/// A source of draws. Its number is printed when it is made, so that a failure can be repeated.
#[derive(Debug)]
pub struct Seed(StdRng);

impl Seed {
    /// A fresh one, or the one that [`SEED_ENV`] names; `what` tells what it is for.
    pub fn fresh(what: &str) -> Self {
        let number =
            std::env::var(SEED_ENV).ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random::<u32>);
        note(&format!("{what}: {SEED_ENV}={number}"));
        Self(StdRng::seed_from_u64(number.into()))
    }

    /// A number from 1 to `most`.
    pub fn upto(&mut self, most: u64) -> u64 {
        self.0.random_range(1..=most.max(1))
    }

    /// `count` points among `total` events, as the distances from one to the next: after each, counting begins anew.
    pub fn gaps(&mut self, count: usize, total: u64) -> Vec<u64> {
        let mut points: Vec<u64> = (0..count).map(|_| self.upto(total)).collect();
        points.sort_unstable();
        let mut last = 0;
        points.into_iter().map(|point| (point - std::mem::replace(&mut last, point)).max(1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_lead_from_point_to_point() {
        let mut seed = Seed(StdRng::seed_from_u64(7));
        let gaps = seed.gaps(25, 1_000);
        assert_eq!(gaps.len(), 25);
        assert!(gaps.iter().all(|gap| *gap > 0) && gaps.iter().sum::<u64>() <= 1_025, "{gaps:?}");
        assert_eq!(gaps, Seed(StdRng::seed_from_u64(7)).gaps(25, 1_000));
    }
}
