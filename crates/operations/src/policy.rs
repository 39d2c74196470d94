//! The numbers, and why.

use std::time::Duration;

use mainstay_runtime::resilience::retry;

/// How operations are carried out; [`Policy::default`] is what `mainstay serve` uses.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Operations under way at a time: 64. Each is a task that mostly waits for others.
    pub slots: usize,
    /// Of these, so many at most for one project: 48. So a project that floods the queue leaves slots free for others at
    /// any time.
    pub slots_per_lane: usize,
    /// How long an attempt is held without a heartbeat: 12 s. A dead worker's operation runs again this long after its last
    /// heartbeat at the latest. At least 3 s.
    pub lease: Duration,
    /// Attempts whose worker was lost before the operation is taken for the cause: 5.
    pub lost_limit: u32,
    /// From so many lost workers on, an operation is begun beside no other suspect: 2. What kills its worker takes its
    /// neighbours along; alone, it is found out and they are cleared.
    pub alone_from: u32,
    /// How late a failed attempt is followed by the next: at most 2 s after the first, then 4, 8 ... 300 s.
    pub again: retry::Settings,
    /// How long an attempt may overrun its timeout before it is given up, wherever it is: 5 s. Its calls have deadlines of
    /// their own and end before that.
    pub overrun: Duration,
    /// With nothing to do, the queue is looked at this often all the same: 30 s.
    pub look: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            slots: 64,
            slots_per_lane: 48,
            lease: Duration::from_secs(12),
            lost_limit: 5,
            alone_from: 2,
            again: retry::Settings { attempts: u32::MAX, base: Duration::from_secs(2), cap: Duration::from_mins(5) },
            overrun: Duration::from_secs(5),
            look: Duration::from_secs(30),
        }
    }
}

impl Policy {
    /// How often leases are renewed: three times before one could expire.
    pub fn heartbeat(&self) -> Duration {
        self.lease / 4
    }
}
