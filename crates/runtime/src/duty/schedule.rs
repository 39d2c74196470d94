//! When something is due, as a pure matter: the same on every replica, whatever it did before.

use std::time::Duration;

use crate::Timestamp;

/// When a duty is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// At each whole multiple of this since 1970 in UTC; counted in whole milliseconds.
    Every(Duration),
}

impl Schedule {
    /// The newest due time that is not after `now`.
    pub fn newest(self, now: Timestamp) -> Timestamp {
        let period = self.period_ms();
        at(now.as_millisecond().div_euclid(period).saturating_mul(period))
    }

    /// The first due time after `time`.
    pub fn after(self, time: Timestamp) -> Timestamp {
        at(self.newest(time).as_millisecond().saturating_add(self.period_ms()))
    }

    /// How many due times lie between two, neither of them counted.
    pub fn between(self, from: Timestamp, to: Timestamp) -> u64 {
        let apart = to.as_millisecond().saturating_sub(from.as_millisecond());
        u64::try_from((apart - 1).div_euclid(self.period_ms())).unwrap_or(0)
    }

    /// From one due time to the next.
    pub const fn period(self) -> Duration {
        match self {
            Self::Every(period) => period,
        }
    }

    fn period_ms(self) -> i64 {
        i64::try_from(self.period().as_millis()).unwrap_or(i64::MAX).max(1)
    }
}

/// The end of time, and its beginning, are due times, too.
fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(if ms < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_are_multiples_of_the_period_for_everybody() {
        let schedule = Schedule::Every(Duration::from_secs(10));
        let ms = |ms: i64| Timestamp::from_millisecond(ms).unwrap();
        for (now, newest, after) in [
            (0, 0, 10_000),
            (1, 0, 10_000),
            (9_999, 0, 10_000),
            (10_000, 10_000, 20_000),
            (-1, -10_000, 0),
            (1_767_225_603_000, 1_767_225_600_000, 1_767_225_610_000),
        ] {
            assert_eq!((schedule.newest(ms(now)), schedule.after(ms(now))), (ms(newest), ms(after)), "{now}");
        }
        for (from, to, between) in [(0, 0, 0), (0, 10_000, 0), (0, 20_000, 1), (0, 100_000, 9), (20_000, 0, 0)] {
            assert_eq!(schedule.between(ms(from), ms(to)), between, "{from} to {to}");
        }
        assert_eq!(schedule.after(Timestamp::MAX), Timestamp::MAX);
    }
}
