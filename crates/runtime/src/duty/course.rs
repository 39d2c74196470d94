//! Which due time a duty's next pass is for, and how long until then. Pure: the present and chance come in as values.

use std::time::Duration;

use super::{Duty, Missed, Retry, Schedule};
use crate::{KeyBackoff, Timestamp};

/// The way of one duty through its due times.
#[derive(Debug)]
pub(super) struct Course {
    schedule: Schedule,
    jitter: f64,
    retry: Retry,
    missed: Missed,
    /// The newest due time that a pass was for, or that is remembered as done.
    last: Option<Timestamp>,
    next: Next,
    backoff: KeyBackoff,
}

/// What the next pass is.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// The first one here.
    First,
    /// One for a later due time than the last.
    Later,
    /// One for the last due time again, after this long.
    Again(Duration),
}

/// The next pass, as planned now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    /// How long until it begins.
    pub(super) wait: Duration,
    due: Timestamp,
}

impl Course {
    /// The course of a duty whose due times up to `done` are done.
    pub(super) fn new(duty: &Duty, done: Option<Timestamp>) -> Self {
        let Duty { schedule, jitter, retry, missed, .. } = *duty;
        Self { schedule, jitter, retry, missed, last: done, next: Next::First, backoff: KeyBackoff::default() }
    }

    /// Plans the next pass; `random` is uniform in [0, 1).
    pub(super) fn plan(&self, now: Timestamp, random: f64) -> Planned {
        let newest = self.schedule.newest(now);
        let due = match (self.next, self.missed, self.last) {
            (_, _, None) => newest,
            (Next::Again(wait), _, Some(last)) => return Planned { wait, due: last },
            (Next::First, Missed::Counted, Some(last)) => newest.max(self.schedule.after(last)),
            (Next::Later, Missed::Counted, Some(last)) => self.schedule.after(now.max(last)),
            (Next::First | Next::Later, Missed::Each, Some(last)) => self.schedule.after(last),
        };
        // A clock that was set back, here or on another replica, holds up nothing for longer than this.
        let wait = until(due, now).min(self.schedule.period());
        let jitter = if wait.is_zero() { Duration::ZERO } else { self.schedule.period().mul_f64(self.jitter * random) };
        Planned { wait: wait + jitter, due }
    }

    /// It begins: gives its due time, and how many went by before it.
    pub(super) fn begin(&mut self, planned: Planned, now: Timestamp) -> (Timestamp, u64) {
        let due = match self.missed {
            Missed::Counted => planned.due.max(self.schedule.newest(now)),
            Missed::Each => planned.due,
        };
        let missed = self.last.map_or(0, |last| self.schedule.between(last, due));
        self.last = Some(due);
        (due, missed)
    }

    /// It ended.
    pub(super) fn end(&mut self, succeeded: bool, now: Timestamp, random: f64) {
        if succeeded {
            self.backoff.reset();
            self.next = Next::Later;
            return;
        }
        let pause = self.backoff.fail(random);
        self.next = match (self.retry, self.missed) {
            (Retry::BackOff, _) => Next::Again(pause),
            (Retry::NextTick, Missed::Each) => Next::Again(until(self.schedule.after(now), now)),
            (Retry::NextTick, Missed::Counted) => Next::Later,
        };
    }
}

fn until(due: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default()
}
