//! What waits for the writer: bounded in items and bytes; beyond, writes are refused as busy.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::sync::{Notify, oneshot};

use crate::error::StoreError;
use crate::lease::Fence;
use crate::lock;
use crate::object::{Object, Write};
use crate::operation::{Attempt, Claims};

/// The most that one batch takes.
const BATCH_ITEMS: usize = 512;
const BATCH_BYTES: usize = 4 << 20;

/// One thing to be done in a batch.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    /// A write of an object; `meta` is its draft's, serialised.
    Write { write: Write, meta: String, fence: Option<Fence> },
    /// A claim, as the database is asked for it.
    Claim(Value),
    /// An entry in a journal.
    Journal { attempt: Attempt, entry: Value },
    /// What came of an attempt that its object does not tell.
    PutOff { attempt: Attempt, how: Value },
    /// The end of an attempt, and the object that tells it.
    End { attempt: Attempt, how: Value, write: Write, meta: String },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    Object(Arc<Object>),
    Claims(Claims),
    /// It changed no object.
    Rows,
}

/// See [`Jobs`].
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ask: Ask,
    pub(super) size: usize,
    /// The clock of leases, in milliseconds, when it is not the database's.
    pub(super) now_ms: Option<i64>,
    /// The wall clock, in milliseconds, when it is not the database's.
    pub(super) wall_ms: Option<i64>,
    pub(super) reply: oneshot::Sender<Result<Done, StoreError>>,
}

impl Job {
    /// Tells its caller; one that went away does not undo it.
    pub(super) fn answer(self, outcome: Result<Done, StoreError>) {
        self.reply.send(outcome).ok();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Jobs {
    state: Mutex<State>,
    filled: Notify,
    items: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: usize,
    closed: bool,
}

impl Jobs {
    pub(super) fn new(items: usize, bytes: usize) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), items, bytes }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).jobs.len()
    }

    pub(super) fn push(&self, job: Job) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(StoreError::Closed);
        }
        if state.jobs.len() >= self.items || (state.bytes + job.size > self.bytes && !state.jobs.is_empty()) {
            return Err(StoreError::Busy);
        }
        state.bytes += job.size;
        state.jobs.push_back(job);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.filled.notify_one();
    }

    /// The next batch; waits for one. `None` once it is closed and nothing is left. A claim is the last of its batch, so that
    /// what it took is read before this process changes it.
    pub(super) async fn take(&self) -> Option<Vec<Job>> {
        loop {
            {
                let mut state = lock(&self.state);
                let (mut batch, mut bytes) = (Vec::new(), 0);
                while let Some(job) = state.jobs.pop_front() {
                    state.bytes -= job.size;
                    bytes += job.size;
                    let last = matches!(job.ask, Ask::Claim(_));
                    batch.push(job);
                    if last || batch.len() >= BATCH_ITEMS || bytes >= BATCH_BYTES {
                        break;
                    }
                }
                if !batch.is_empty() {
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }
}
