//! The queue of operations: a row beside each operation's object.
//!
//! What creates, cancels, replays or deletes an operation is a write of its object, and the row follows it in the same
//! transaction ([`Queued`]). What only concerns its being carried out (claim, lease, journal, a further attempt) touches
//! the row alone and takes no revision. Its end is both: row and object, in one transaction, and only by who holds
//! the current attempt.
//!
//! States of a row:
//!
//! ```text
//!            runAt ahead            due                claim              settle
//! enqueue ----------------> Delayed ----> Ready ----------------> Running ------> Succeeded | Cancelled | Dead
//!    |                         ^   \       ^ ^                     | |  |                                   |
//!    |  its key is taken       |    v      | |  lease expired,     | |  |                                   |
//!    +-------------------------|-> Blocked-+ +-- handed back ------+ |  |                                   |
//!                              +------- again later -----------------+  +<---- replay (Ready) --------------+
//! ```
//!
//! Invariants:
//! - Attempts of an operation are numbered from 1 and never numbered anew. Journal, renewal and settlement say for which
//!   attempt they are; one that is not the current one is [`StoreError::Fenced`], and changes nothing.
//! - Of all rows with one concurrency key in one lane at most one is Ready or Running; the others are Blocked or Delayed.
//! - A claim takes from the lane that has the fewest running, then from the one that waited longest; in a lane the
//!   highest priority first, then the oldest. So a lane that floods the queue delays no other.
//! - A cancellation waits for nothing that was decided without knowing of it: what has not begun is ready at once, and needs
//!   no key; what waits for its time is due.
//! - Nothing here is held in memory but the leases of what runs and a few figures: a backlog costs disk.

mod ledger;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::StoreError;
use crate::object::{Key, Object, Write};

pub use ledger::{Ending, Ledger, Order};

/// The resource of operations. Its objects are not kept in memory but read from the database when they are asked for.
pub const OPERATIONS: &str = "mainstay.dev/operations";

/// Whether a resource's objects are on disk only.
pub(crate) fn on_disk(resource: &str) -> bool {
    resource == OPERATIONS
}

/// The most attempts whose ends a row remembers.
pub const HISTORY: usize = 10;

/// What the queue has to know of an operation's object: goes with each write of it but its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Whom it is for: lanes get their turns evenly. A project's name.
    pub lane: Arc<str>,
    /// The handler, for figures.
    pub handler: Arc<str>,
    /// The highest of a lane goes first.
    pub priority: i32,
    /// Not before this wall-clock time, in milliseconds since 1970; 0 for at once.
    pub run_at_ms: i64,
    /// Of all operations of the lane with this key only one is carried out at a time.
    pub concurrency_key: Option<Arc<str>>,
    /// It is to be ended: at once when it has not begun, else after its undoing. Never taken back.
    pub cancelled: bool,
    /// How often a dead letter was put back into the queue. A write with a higher number puts it back.
    pub replays: u32,
    /// When it was created, in milliseconds since 1970, for figures; no finer than the object says.
    pub created_ms: i64,
}

impl Queued {
    /// For this lane and handler: due at once, beside any other, of the lowest priority, created at the epoch.
    pub fn new(lane: impl Into<Arc<str>>, handler: impl Into<Arc<str>>) -> Self {
        Self {
            lane: lane.into(),
            handler: handler.into(),
            priority: 0,
            run_at_ms: 0,
            concurrency_key: None,
            cancelled: false,
            replays: 0,
            created_ms: 0,
        }
    }
}

/// One try of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt {
    /// The operation's uid.
    pub id: Arc<str>,
    /// From 1; each claim takes the next.
    pub number: u64,
}

/// What to claim.
#[derive(Debug, Clone)]
pub struct Claim {
    /// At most so many.
    pub limit: usize,
    /// No lane may have more than this running, for each replica that has any running.
    pub per_lane: usize,
    /// How long an attempt is held without being renewed.
    pub lease: Duration,
    /// The wall clock, in milliseconds since 1970: what is due.
    pub now_ms: i64,
}

/// What a claim found.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// Now running, and held by who claimed them.
    pub claimed: Vec<Claimed>,
    /// When the next one becomes due, in milliseconds since 1970.
    pub next_due_ms: Option<i64>,
    /// When the first of the leases expires: whoever waits looks again then.
    pub next_expiry: Option<Duration>,
}

/// An operation that is to be carried out.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The attempt: its number is the effects' token.
    pub attempt: Attempt,
    /// The operation's object.
    pub object: Arc<Object>,
    /// How earlier attempts left it.
    pub standing: Standing,
    /// For how long it could have been claimed before it was.
    pub waited: Duration,
}

/// A state of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Can be claimed.
    Ready,
    /// Waits for its time: its first, or that of its next attempt.
    Delayed,
    /// Waits for another with its concurrency key.
    Blocked,
    /// Claimed.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended because it was told to.
    Cancelled,
    /// Ended without success: waits for somebody to look.
    Dead,
}

impl State {
    /// Whether it has ended.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Cancelled | Self::Dead)
    }
}

/// An operation's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it stands.
    pub state: State,
    /// The newest attempt's number; 0 before the first.
    pub attempt: u64,
    /// Attempts that failed, since the creation or the last replay.
    pub failures: u32,
    /// Attempts whose worker was lost, in a row: without a step getting done, a failure or a waiting told.
    pub lost: u32,
    /// When the newest attempt began, in milliseconds since 1970; 0 before the first.
    pub started_ms: i64,
    /// When it is, or was, due.
    pub run_at_ms: i64,
    /// It is to be ended.
    pub cancelled: bool,
    /// What failed for good, once it is being undone: what the end will say.
    pub undoing: Option<Note>,
    /// How the newest attempts ended, oldest first; at most [`HISTORY`].
    pub history: Vec<Note>,
}

impl Row {
    /// Remembers how an attempt ended. Of more than [`HISTORY`] the oldest is forgotten.
    pub fn note(&mut self, note: Note) {
        self.history.push(note);
        self.history.drain(..self.history.len().saturating_sub(HISTORY));
    }

    /// Counts an attempt that failed, and remembers how.
    pub fn failed(&mut self, note: Note) {
        self.failures += 1;
        self.note(note);
    }
}

/// How an attempt ended without ending the operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// Of which attempt.
    pub attempt: u64,
    /// When it began, in milliseconds since 1970.
    pub started_ms: i64,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: i64,
    /// One word: the failure's class or reason, `Lost` when its worker was lost.
    pub reason: String,
    /// The failure and its causes; at most 1,024 bytes.
    pub message: String,
}

/// A step's state in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StepState {
    /// It may have had its effect.
    Intent,
    /// It had its effect.
    Done,
    /// Its undoing may have begun.
    Undoing,
    /// It has no effect any more.
    Undone,
}

/// A journal entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRow {
    /// Its name.
    pub step: Arc<str>,
    /// How far it is.
    pub state: StepState,
    /// The attempt that wrote this.
    pub attempt: u64,
    /// What it was done with, as JSON; `null` before.
    pub output: Arc<str>,
}

/// Where an operation stands, and how far its steps are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its row.
    pub row: Row,
    /// Its journal, in the order of the first entries.
    pub steps: Vec<StepRow>,
}

/// What a renewal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Held for another lease.
    Held,
    /// Held, and it is to be cancelled.
    Cancelled,
    /// Somebody else has it, or it has ended: stop.
    Lost,
}

/// What comes of an attempt.
#[derive(Debug, Clone)]
pub enum Settlement {
    /// It failed: a further attempt is due later. Counts as a failure.
    Retry {
        /// When, in milliseconds since 1970.
        run_at_ms: i64,
        /// How it failed.
        note: Note,
        /// From now on it is undone: this is why.
        undoing: Option<Note>,
    },
    /// It waits for the world, or its worker stops and hands it back: not a failure, and not kept in the history.
    Later {
        /// When, in milliseconds since 1970.
        run_at_ms: i64,
    },
    /// It was not begun, and is handed back: counts as nothing, and shows nothing of what it does to its workers.
    Unbegun {
        /// When it may be claimed again, in milliseconds since 1970.
        run_at_ms: i64,
    },
    /// It ends. The object's write says so, and says the same. What is to end [`State::Dead`], and was cancelled since it
    /// was claimed, does not end: the holder did not know of it, and another attempt, at once, takes back what was done.
    End {
        /// How: one of the final states; any other counts as [`State::Dead`].
        state: State,
        /// How the last attempt failed, if it did.
        note: Option<Note>,
        /// The object with its outcome: an update of the revision that it was read at, or its deletion.
        write: Box<Write>,
    },
    /// Its object cannot say how it ended: the row alone ends, as [`State::Dead`].
    Bury {
        /// Why.
        note: Note,
    },
}

impl Settlement {
    /// Bytes of the object that it writes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::End { write, .. } => write.draft().len(),
            _ => 0,
        }
    }
}

/// Figures of the queue, for `/metrics` and `mainstay status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueFigures {
    /// Operations by lane and state, without those that ended well or were cancelled.
    pub depth: Vec<(Arc<str>, State, u64)>,
    /// For how long the longest of those that can be claimed has waited; looked for among the 1,000 that were created first.
    pub longest_wait: Option<Duration>,
    /// Settlements, journal entries and renewals of attempts that were not the current ones, since the store was opened.
    pub fenced: u64,
    /// Attempts whose worker was lost, since the store was opened (those found at the opening included).
    pub lost: u64,
}

/// An operation that ended without success, and has not been put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its object: says of what it died, and when.
    pub key: Key,
    /// Whom it was for.
    pub lane: Arc<str>,
    /// Who carried it out.
    pub handler: Arc<str>,
}

/// The queue of a store.
pub trait Queue: Send + Sync + 'static {
    /// Takes operations to carry out, in the order of the module's third invariant, and holds each for the lease's time.
    /// What others held for longer than their leases is put back first, and counted as lost.
    ///
    /// # Cancel safety
    /// Dropped before it answers, what it took is put back when its lease expires.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claims, StoreError>>;

    /// Holds attempts for another lease; one answer for each, in order.
    fn renew(&self, attempts: Vec<Attempt>, lease: Duration) -> BoxFuture<'_, Result<Vec<Renewal>, StoreError>>;

    /// Enters one step's state, durably; replaces what was said of the step before.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt is not the current one or its lease has expired.
    fn journal(&self, attempt: &Attempt, entry: StepRow) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Says what came of an attempt, and gives the object of one that ended with it. Saying it again after it was said is Fenced.
    /// It is in its place when this is called: a claim that is asked for afterwards, though before the answer, comes after it.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt is not the current one; [`StoreError::Conflict`] or
    /// [`StoreError::Missing`] when the object is not as the write expects it. Neither changes anything.
    fn settle(
        &self,
        attempt: &Attempt,
        settlement: Settlement,
    ) -> BoxFuture<'_, Result<Option<Arc<Object>>, StoreError>>;

    /// The rows and journals of operations, by uid, at one moment; `None` for those that there are not.
    fn operations(&self, ids: Vec<Arc<str>>) -> BoxFuture<'_, Result<Vec<Option<Standing>>, StoreError>>;

    /// The dead letters that were created last, the newest first.
    fn dead_letters(&self, limit: usize) -> BoxFuture<'_, Result<Vec<DeadLetter>, StoreError>>;

    /// Changes when something can be claimed, has a new time at which it is due, or is to be cancelled, that was not before:
    /// whoever waits claims again, and renews what it holds.
    fn queue_changes(&self) -> watch::Receiver<u64>;

    /// How many operations the commits of this process have made ready to be claimed, by whomever: at least so many, and one at
    /// least with each commit that made any. What others commit does not change it.
    fn made_ready(&self) -> watch::Receiver<u64> {
        self.queue_changes()
    }

    /// Figures.
    fn queue_figures(&self) -> BoxFuture<'_, Result<QueueFigures, StoreError>>;
}
