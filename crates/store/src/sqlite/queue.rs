//! What waits for the writer: bounded in items and bytes; beyond, writes are refused as busy.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::lock;
use crate::message::{Append, Appended};
use crate::object::{Object, Revision, Write};

/// The most that one transaction takes.
const BATCH_ITEMS: usize = 512;
const BATCH_BYTES: usize = 4 << 20;

/// Where a job's outcome goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// One thing for the writer to do.
#[derive(Debug)]
pub(super) enum Job {
    /// A compare-and-swap; `meta` is the draft's, serialised by the caller.
    Write {
        write: Write,
        meta: String,
        reply: Reply<Arc<Object>>,
    },
    Append {
        append: Append,
        reply: Reply<Vec<Appended>>,
    },
    /// Make the run rows that were put so far durable.
    RunRows {
        reply: Reply<()>,
    },
    Drop {
        session: Arc<str>,
        reply: Reply<()>,
    },
    Raise {
        name: String,
        reply: Reply<u64>,
    },
    Compact {
        floor: Revision,
        reply: Reply<()>,
    },
}

impl Job {
    /// How many rows it adds, about.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Append { append, .. } => append.messages.len(),
            Self::Write { .. }
            | Self::RunRows { .. }
            | Self::Drop { .. }
            | Self::Raise { .. }
            | Self::Compact { .. } => 1,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    items: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<(Job, usize)>,
    bytes: usize,
    nudged: bool,
    closed: bool,
}

/// What the writer found.
#[derive(Debug)]
pub(super) enum Found {
    /// Jobs; none when the wait was over or the writer was nudged.
    Jobs(Vec<Job>),
    /// Closed, and nothing left.
    Closed,
}

impl Queue {
    pub(super) fn new(items: usize, bytes: usize) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), items, bytes }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).jobs.len()
    }

    pub(super) fn push(&self, job: Job, size: usize) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(StoreError::Closed);
        }
        if state.jobs.len() >= self.items || (state.bytes + size > self.bytes && !state.jobs.is_empty()) {
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
