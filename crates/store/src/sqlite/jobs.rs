//! What waits for the writer: bounded in items and bytes; beyond, writes are refused as busy.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use mainstay_runtime::guard::Guard;
use tokio::sync::oneshot;

use super::turn::Turn;
use crate::error::StoreError;
use crate::lock;

/// The most that one transaction takes.
const BATCH_ITEMS: usize = 512;
const BATCH_BYTES: usize = 4 << 20;

/// Where a job's outcome goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Why a transaction did not commit.
#[derive(Debug)]
pub(super) enum Broken {
    Sql(rusqlite::Error),
    /// A test wanted it so.
    Injected(mainstay_runtime::fault::Injected),
    /// Memory and disk disagree.
    Diverged(&'static str),
}

/// Why a job did not do what it was to do.
#[derive(Debug)]
pub(super) enum Failed {
    /// It does not hold, and has changed nothing.
    Refused(StoreError),
    /// Nothing of the whole transaction counts.
    Broken(Broken),
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl<E: Into<Broken>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

/// One thing for the writer to do.
pub(super) trait Job: Send {
    /// Does it, inside the turn's transaction, and remembers what came of it.
    fn apply(&mut self, turn: &mut Turn<'_>) -> Result<(), Broken>;

    /// The transaction is committed: tells the caller what came of it. One that went away does not undo it.
    fn answer(self: Box<Self>);

    /// Nothing of the transaction is on disk: tells the caller, since what it was refused for may not have happened either.
    fn fail(self: Box<Self>, error: &StoreError);
}

impl fmt::Debug for dyn Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

struct Task<T, F> {
    act: Option<F>,
    outcome: Result<T, StoreError>,
    reply: Reply<T>,
}

/// A job that is what `act` does.
pub(super) fn job<T, F>(act: F, reply: Reply<T>) -> Box<dyn Job>
where
    T: Send + 'static,
    F: FnOnce(&mut Turn<'_>) -> Result<T, Failed> + Send + 'static,
{
    Box::new(Task { act: Some(act), outcome: Err(StoreError::Closed), reply })
}

impl<T: Send, F: FnOnce(&mut Turn<'_>) -> Result<T, Failed> + Send> Job for Task<T, F> {
    fn apply(&mut self, turn: &mut Turn<'_>) -> Result<(), Broken> {
        let Some(act) = self.act.take() else { return Ok(()) };
        self.outcome = match act(turn) {
            Ok(done) => Ok(done),
            Err(Failed::Refused(why)) => Err(why),
            Err(Failed::Broken(broken)) => return Err(broken),
        };
        Ok(())
    }

    fn answer(self: Box<Self>) {
        self.reply.send(self.outcome).ok();
    }

    fn fail(self: Box<Self>, error: &StoreError) {
        self.reply.send(Err(error.clone())).ok();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Jobs {
    state: Mutex<State>,
    filled: Condvar,
    items: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<(Box<dyn Job>, usize)>,
    bytes: usize,
    nudged: bool,
    closed: bool,
}

/// What the writer found.
#[derive(Debug)]
pub(super) enum Found {
    /// Jobs; none when the wait was over or the writer was nudged.
    Jobs(Vec<Box<dyn Job>>),
    /// Closed, and nothing left.
    Closed,
}

impl Jobs {
    pub(super) fn new(items: usize, bytes: usize) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), items, bytes }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).jobs.len()
    }

    pub(super) fn push(&self, job: Box<dyn Job>, size: usize) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(StoreError::Closed);
        }
        let full = state.jobs.len() >= self.items || (state.bytes + size > self.bytes && !state.jobs.is_empty());
        if full && Guard::Shedding.holds() {
            return Err(StoreError::Busy);
        }
        state.bytes += size;
        state.jobs.push_back((job, size));
        let first = state.jobs.len() == 1;
        drop(state);
        if first {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Lets the writer look at what is to be done besides jobs.
    pub(super) fn nudge(&self) {
        let mut state = lock(&self.state);
        if !state.nudged {
            state.nudged = true;
            drop(state);
            self.filled.notify_one();
        }
    }

    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.filled.notify_one();
    }

    /// The first jobs, waiting up to `patience` for one.
    pub(super) fn take(&self, patience: Duration) -> Found {
        let mut state = lock(&self.state);
        if state.jobs.is_empty() && !state.closed && !state.nudged && !patience.is_zero() {
            let idle = |state: &mut State| state.jobs.is_empty() && !state.closed && !state.nudged;
            let waited = self.filled.wait_timeout_while(state, patience, idle);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.nudged = false;
        if state.jobs.is_empty() && state.closed {
            return Found::Closed;
        }
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while let Some((job, size)) = state.jobs.pop_front() {
            state.bytes -= size;
            bytes += size;
            jobs.push(job);
            if jobs.len() >= BATCH_ITEMS || bytes >= BATCH_BYTES {
                break;
            }
        }
        Found::Jobs(jobs)
    }
}
