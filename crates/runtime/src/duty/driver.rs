//! Waits for the due times of one duty and runs its passes.

use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::task::JoinError;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::course::Course;
use super::{DueTimes, Duty, Place, Seen, Tick, lock};
use crate::failure::{Class, Classify, Failure, Reason};
use crate::lease::{Held, Leases};
use crate::{Clock, KeyBackoff, Tasks, Timestamp};

/// One duty of this process.
pub(super) struct Driver<W> {
    pub(super) duty: &'static Duty,
    pub(super) tasks: Tasks,
    pub(super) clock: Clock,
    pub(super) leases: Arc<dyn Leases>,
    pub(super) memory: Option<Arc<dyn DueTimes>>,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) stop: CancellationToken,
    pub(super) work: Arc<W>,
}

/// What passes are run under.
struct Term {
    number: u64,
    lost: CancellationToken,
    /// Handed back after the last pass has ended.
    _held: Option<Held>,
}

impl<W, F> Driver<W>
where
    W: Fn(Tick) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    /// Runs the duty until the process stops.
    pub(super) async fn run(self) {
        let mut backoff = KeyBackoff::default();
        while !self.stop.is_cancelled() {
            // Only the wait for a lease and reads of what was done end with the process: a pass is awaited.
            let begun = self.stop.run_until_cancelled(self.begin()).await;
            match begun {
                None => return,
                Some(Ok((term, done))) => {
                    backoff.reset();
                    self.serve(&term, done).await;
                }
                Some(Err(failure)) => {
                    self.failed(&failure);
                    let pause = backoff.fail(crate::chance::unit());
                    self.stop.run_until_cancelled(sleep(pause)).await;
                }
            }
        }
    }

    /// Waits until the duty is ours; gives what is known to be done.
    async fn begin(&self) -> Result<(Term, Option<Timestamp>), Failure> {
        let held = match self.duty.place {
            Place::Singleton => Some(self.leases.acquire(self.duty.name).await?),
            Place::EachProcess => None,
        };
        let (number, lost) = held.as_ref().map_or_else(Default::default, |held| (held.term, held.lost.clone()));
        let done = match &self.memory {
            Some(memory) => timeout(self.duty.timeout, memory.last(self.duty.name))
                .await
                .map_err(|error| Failure::caused_by(Class::TRANSIENT, "read which due time was done", error))??,
            None => None,
        };
        Ok((Term { number, lost, _held: held }, done))
    }

    /// Runs passes until the term is over or the process stops.
    async fn serve(&self, term: &Term, done: Option<Timestamp>) {
        let mut course = Course::new(self.duty, done);
        loop {
            let now = self.clock.now();
            let planned = course.plan(now, crate::chance::unit());
            lock(&self.seen).next = now.checked_add(planned.wait).ok();
            let start = self.clock.since_boot() + planned.wait;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = term.lost.cancelled() => return,
                () = self.clock.reach(start) => {}
            }
            let (due, missed) = course.begin(planned, self.clock.now());
            lock(&self.seen).missed += missed;
            let outcome = self.pass(due, term).await;
            course.end(outcome.is_ok(), self.clock.now(), crate::chance::unit());
        }
    }

    /// Runs one pass to its end.
    async fn pass(&self, due: Timestamp, term: &Term) -> Result<(), Failure> {
        lock(&self.seen).running = true;
        let began = Instant::now();
        let outcome = self.awaited(self.tick(due, term)).await;
        let now = self.clock.now();
        let mut seen = lock(&self.seen);
        (seen.running, seen.next) = (false, None);
        seen.passes += 1;
        seen.busy += began.elapsed();
        if outcome.is_ok() {
            seen.last_success = Some(now);
        }
        drop(seen);
        if let Err(failure) = &outcome {
            self.failed(failure);
        }
        outcome
    }

    fn tick(&self, due: Timestamp, term: &Term) -> Tick {
        let key = format!("{}/{due}", self.duty.name);
        Tick { due, term: term.number, key, lost: term.lost.clone(), stop: self.stop.clone() }
    }

    /// The outcome of a pass, which is on a task of its own: its panic is one pass's failure.
    async fn awaited(&self, tick: Tick) -> Result<(), Failure> {
        let (work, memory) = (self.work.clone(), self.memory.clone());
        let (name, due, term) = (self.duty.name, tick.due, tick.term);
        let mut pass = self.tasks.spawn(name, async move {
            work(tick).await?;
            match memory {
                Some(memory) => memory.done(name, due, term).await,
                None => Ok(()),
            }
        });
        if let Ok(joined) = timeout(self.duty.timeout, &mut pass).await {
            return joined.unwrap_or_else(|error| Err(not_joined(error)));
        }
        pass.abort();
        // It may still be busy up to its next await, and the next pass does not begin before that.
        pass.await.unwrap_or_else(|error| Err(not_joined(error)))
    }

    /// Counts and logs a failure. That a pass heeds the process's end is none.
    fn failed(&self, failure: &Failure) {
        let class = failure.class();
        if class == Class::Fenced && self.stop.is_cancelled() {
            return;
        }
        *lock(&self.seen).failures.entry(class.as_str()).or_default() += 1;
        tracing::warn!(duty = self.duty.name, %class, error = failure.chain(), "a duty failed and will come again");
    }
}

fn not_joined(error: JoinError) -> Failure {
    if error.is_panic() {
        return Failure::caused_by(Class::Terminal(Reason::Panicked), "run a pass", error);
    }
    // What it had under way may have been done.
    Failure::caused_by(Class::Indeterminate, "end a pass in time", error)
}
