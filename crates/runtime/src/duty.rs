//! Periodic duties: what is to be done again and again, by one driver with one set of rules.
//!
//! - The first pass begins at once: at the start, or once the duty's lease is held. Then one at each due time, up to the
//!   jitter later. Due times are multiples of the period, so that all replicas mean the same ones; for one duty they only
//!   grow, also when the clock is set back.
//! - Passes of a duty never overlap, and none outlasts its timeout. Due times that went by meanwhile are counted as missed
//!   and not made up for, unless the duty says so.
//! - A pass that fails or panics is counted and logged, and the duty goes on.
//! - A singleton runs where its lease is held. A pass that has lost it may do nothing more: it asks [`Tick::check`] before
//!   each effect. Effects carry the tick's term and, where doing them twice does harm, its key.
//!
//! What is due and when is decided in `course`, which reads no clock; `driver` waits and runs. All duties of Mainstay are in
//! [`table`]. What follows an object's own times (a reconciler's next look, a stream's keep-alive) is no duty, and neither is
//! what the store does between its writes.

mod course;
mod driver;
mod schedule;
pub mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::failure::{Class, Failure};
use crate::lease::{Counts, Leases, LocalLeases, Standing, VolatileTerms};
use crate::{Clock, Tasks, Timestamp};
use driver::Driver;

pub use schedule::Schedule;

/// A periodic duty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duty {
    /// Its name in logs, metrics and keys; also that of its lease.
    pub name: &'static str,
    /// When it is due.
    pub schedule: Schedule,
    /// A pass begins up to this share of the period after its due time; from 0 to 0.5.
    pub jitter: f64,
    /// A pass that takes longer is dropped at its next await.
    pub timeout: Duration,
    /// Where it runs.
    pub place: Place,
    /// When it comes again after a failure.
    pub retry: Retry,
    /// What becomes of due times that went by.
    pub missed: Missed,
    /// What it is good for, why so often, and why twice does no harm.
    pub why: &'static str,
}

/// Where a duty runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where its lease is held: once in the whole installation.
    Singleton,
    /// In each process, on what that process alone has.
    EachProcess,
}

/// When a duty comes again after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// At the next due time.
    NextTick,
    /// When [`KeyBackoff`](crate::KeyBackoff) says: later than the next due time, or sooner.
    BackOff,
}

/// What becomes of due times at which no pass could begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// They are counted.
    Counted,
    /// Each is made up for, in order; and one that failed is repeated.
    Each,
}

/// One pass of a duty.
#[derive(Debug, Clone)]
pub struct Tick {
    /// The time it was due.
    pub due: Timestamp,
    /// The fencing token of its effects; 0 for a duty of each process.
    pub term: u64,
    /// `DUTY/DUE`: the same on whichever replica, so that an effect that carries it is done once.
    pub key: String,
    lost: CancellationToken,
    stop: CancellationToken,
}

impl Tick {
    /// To be asked before each effect.
    ///
    /// # Errors
    /// [`Class::Fenced`] when the lease is lost or the process stops: the pass ends.
    pub fn check(&self) -> Result<(), Failure> {
        if self.lost.is_cancelled() || self.stop.is_cancelled() {
            return Err(Failure::new(Class::Fenced, "go on with a duty whose term is over"));
        }
        Ok(())
    }
}

/// Remembers which due times were done, for duties of which none may be left out or begun again.
pub trait DueTimes: fmt::Debug + Send + Sync + 'static {
    /// The newest due time of this duty that was done.
    ///
    /// # Errors
    /// When it cannot be read.
    fn last(&self, duty: &'static str) -> BoxFuture<'_, Result<Option<Timestamp>, Failure>>;

    /// All that belongs to this due time is done. One that is older than what is remembered changes nothing.
    ///
    /// # Errors
    /// When it cannot be kept: the pass counts as failed.
    fn done(&self, duty: &'static str, due: Timestamp, term: u64) -> BoxFuture<'_, Result<(), Failure>>;
}

/// What was seen of a duty since the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Passes that ended.
    pub passes: u64,
    /// Failures by class, those of having its lease among them.
    pub failures: BTreeMap<&'static str, u64>,
    /// Due times at which no pass could begin.
    pub missed: u64,
    /// Whether a pass is under way.
    pub running: bool,
    /// When the next pass is to begin; `None` while it is not planned.
    pub next: Option<Timestamp>,
    /// When a pass last succeeded.
    pub last_success: Option<Timestamp>,
    /// Time that passes took, all together.
    pub busy: Duration,
}

/// A duty that runs here, and what is seen of it.
type Started = (&'static Duty, Arc<Mutex<Seen>>);

/// Runs the duties of a process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Duties(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tasks: Tasks,
    clock: Clock,
    leases: Arc<dyn Leases>,
    started: Mutex<Vec<Started>>,
}

impl Duties {
    /// None runs yet.
    pub fn new(tasks: Tasks, clock: Clock, leases: Arc<dyn Leases>) -> Self {
        Self(Arc::new(Shared { tasks, clock, leases, started: Mutex::default() }))
    }

    /// Duties of a process that is alone and remembers no term: for tests and benches.
    pub fn alone(tasks: Tasks, clock: Clock) -> Self {
        Self::new(tasks, clock, Arc::new(LocalLeases::new(VolatileTerms::default())))
    }

    /// Runs a duty until the process stops. Each pass is `work` with its tick; all that it does may be repeated. One that
    /// runs already goes on as it was started.
    pub fn start<W, F>(&self, duty: &'static Duty, work: W)
    where
        W: Fn(Tick) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.run(duty, None, work);
    }

    /// The same for a duty whose due times are remembered: one that is done is not begun again, here or elsewhere. One
    /// that was begun and not done is repeated, so its effects carry the tick's key.
    pub fn start_remembered<W, F>(&self, duty: &'static Duty, memory: Arc<dyn DueTimes>, work: W)
    where
        W: Fn(Tick) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.run(duty, Some(memory), work);
    }

    fn run<W, F>(&self, duty: &'static Duty, memory: Option<Arc<dyn DueTimes>>, work: W)
    where
        W: Fn(Tick) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let seen = Arc::<Mutex<Seen>>::default();
        let mut started = lock(&self.0.started);
        if started.iter().any(|(other, _)| other.name == duty.name) {
            // Two drivers of one duty would let its passes overlap.
            tracing::error!(duty = duty.name, "a duty that runs already was not started again");
            return;
        }
        started.push((duty, seen.clone()));
        drop(started);
        let (tasks, clock, leases) = (self.0.tasks.clone(), self.0.clock.clone(), self.0.leases.clone());
        let work = Arc::new(work);
        drop(
            self.0
                .tasks
                .essential("duty", |stop| Driver { duty, tasks, clock, leases, memory, seen, stop, work }.run()),
        );
    }

    /// What was seen of each duty that was started, in that order.
    pub fn seen(&self) -> Vec<(&'static Duty, Seen)> {
        lock(&self.0.started).iter().map(|(duty, seen)| (*duty, lock(seen).clone())).collect()
    }

    /// What has happened to them.
    pub fn lease_counts(&self) -> Counts {
        self.0.leases.counts()
    }

    /// The leases of this process.
    pub fn leases(&self) -> Vec<Standing> {
        self.0.leases.standings()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
