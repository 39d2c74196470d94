//! What waits for the writer: bounded in items and bytes; beyond, writes are refused as busy.
//!
//! Those who were answered together mostly ask again together: after a large batch the next waits for a moment, until about as
//! many have come. A commit costs the same for one as for all of them. Where other replicas write, too, it is their turn meanwhile:
//! then it waits for longer, and for those as well who came while the last batch was carried out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstay_runtime::guard::Guard;
use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error::StoreError;
use crate::given::Given;
use crate::lock;
use crate::object::{Object, Write};
use crate::operation::{Attempt, Claims};

/// The most that one batch takes.
const BATCH_ITEMS: usize = 512;
const BATCH_BYTES: usize = 4 << 20;
/// After a batch of so many, others are waited for.
const GATHER_FROM: usize = 8;
/// So many at most,
const GATHER_MOST: usize = 64;
/// and for so long; for as long as the last batch took, up to this, where other replicas write.
const GATHER: Duration = Duration::from_millis(1);
const GATHER_IN_TURNS: Duration = Duration::from_millis(10);

/// One thing to be done in a batch.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    /// A write of an object; `meta` is its draft's, serialised.
    Write { write: Write, meta: String, given: Given },
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
    fn is_claim(&self) -> bool {
        matches!(self.ask, Ask::Claim(_))
    }

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
    /// How many there were in the last batch.
    last: usize,
    /// With how many the next is worth its commit, and how long they are waited for.
    hoped: usize,
    patience: Duration,
    /// With how many the writer, who waits, wants to be woken.
    wake_at: usize,
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
        let full = state.jobs.len() >= self.items || (state.bytes + job.size > self.bytes && !state.jobs.is_empty());
        if full && Guard::Shedding.holds() {
            return Err(StoreError::Busy);
        }
        state.bytes += job.size;
        let is_claim = job.is_claim();
        state.jobs.push_back(job);
        let wakes = is_claim || state.jobs.len() >= state.wake_at;
        drop(state);
        if wakes {
            self.filled.notify_one();
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.filled.notify_one();
    }

    /// The last batch is committed: it took so long, and other replicas have written since the one before, or not.
    pub(super) fn committed(&self, took: Duration, in_turns: bool) {
        let mut state = lock(&self.state);
        let (hoped, patience) = match (state.last >= GATHER_FROM, in_turns) {
            (false, _) => (1, Duration::ZERO),
            (true, false) => (state.last, GATHER),
            (true, true) => (state.last + state.jobs.len(), took.min(GATHER_IN_TURNS)),
        };
        state.hoped = hoped.min(GATHER_MOST);
        state.patience = patience;
    }

    /// The next batch; waits for one. `None` once it is closed and nothing is left. A claim is the last of its batch, so that
    /// what it took is read before this process changes it.
    pub(super) async fn take(&self) -> Option<Vec<Job>> {
        let mut deadline = None;
        loop {
            {
                let mut state = lock(&self.state);
                let there = state.jobs.len();
                if there == 0 && state.closed {
                    return None;
                }
                if there > 0 && (state.is_enough() || deadline.is_some_and(|deadline| Instant::now() >= deadline)) {
                    return Some(state.batch());
                }
                if there > 0 {
                    deadline.get_or_insert_with(|| Instant::now() + state.patience);
                }
                state.wake_at = if there > 0 { state.hoped } else { 1 };
            }
            match deadline {
                None => self.filled.notified().await,
                Some(deadline) => timeout_at(deadline, self.filled.notified()).await.unwrap_or_default(),
            }
        }
    }
}

impl State {
    /// Workers claim when they have ended what they had: nobody else is waited for.
    fn is_enough(&self) -> bool {
        self.closed || self.jobs.len() >= self.hoped || self.jobs.iter().any(Job::is_claim)
    }

    fn batch(&mut self) -> Vec<Job> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(job) = self.jobs.pop_front() {
            self.bytes -= job.size;
            bytes += job.size;
            let last = job.is_claim();
            batch.push(job);
            if last || batch.len() >= BATCH_ITEMS || bytes >= BATCH_BYTES {
                break;
            }
        }
        (self.last, self.hoped) = (batch.len(), 1);
        self.wake_at = usize::MAX;
        batch
    }
}
