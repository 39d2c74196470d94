//! A database that is a few maps in memory, and stores ("replicas") that share it over a wire that may fail: what the store
//! over PostgreSQL promises, without a server, threads, or any clock but Tokio's. For simulations.
//!
//! The database judges writes as `postgres/sql/apply.sql` does: each batch whole, in one order, revisions without gaps. Its
//! queue of operations is the conformance suite's own model, with which random histories compare both real stores. Who
//! leads is decided by the code that decides it over PostgreSQL, and each replica's memory is the same hub, brought forward
//! from the log. Each word between replica and database has a fate that its [`Wire`] decides. Of a batch whose answer was lost
//! is found out what came of it, as over PostgreSQL: it is never sent again before the database has said that it never was.
//!
//! Not here: epochs, partitions of the history, a wall clock that is set back.

mod database;
mod leases;
mod log;
mod replica;
mod session;
mod store;
mod talk;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::time::Duration;

pub use database::Database;
pub use store::MemoryStore;

/// What becomes of a word between a replica and the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It gets there after one time, and its answer back after another.
    Answered {
        /// How long the word takes.
        there: Duration,
        /// How long the answer takes.
        back: Duration,
    },
    /// It cannot be sent, which is known after so long.
    Away(Duration),
    /// It never gets there. It is given up after so long, and nobody knows.
    Lost(Duration),
    /// It gets there, and its answer never comes back. It is given up so long after that.
    Unanswered {
        /// How long the word takes.
        there: Duration,
        /// How long the answer is waited for.
        patience: Duration,
    },
    /// It gets there long after it was given up.
    Late {
        /// When it is given up.
        patience: Duration,
        /// When it gets there, by the database's clock.
        there: Duration,
    },
}

impl Fate {
    /// At once, and at once back.
    pub const AT_ONCE: Self = Self::Answered { there: Duration::ZERO, back: Duration::ZERO };
}

/// What a word is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// A batch of writes, or of what is said of operations.
    Batch,
    /// What came of a batch.
    Settle,
    /// Something is read.
    Read,
    /// Leases of operations are renewed.
    Renew,
    /// The table of leases.
    Lease,
    /// Messages, counters, keys.
    Talk,
    /// The database's hint that there is something new. It is only ever late or lost.
    Hint,
}

/// The way between one replica and the database.
pub trait Wire: fmt::Debug + Send + Sync + 'static {
    /// What becomes of the next word. Asked once for each, when it is sent.
    fn fate(&self, word: Word) -> Fate;
}

/// The wire to a database that is right here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct;

impl Wire for Direct {
    fn fate(&self, _: Word) -> Fate {
        Fate::AT_ONCE
    }
}

/// What keeps the promises. A simulation takes one away, to see that it is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// A leader's write is refused when another leads.
    pub fence: bool,
    /// What is said by an attempt that is not the current one is refused.
    pub attempt: bool,
    /// A batch of which the database said that it never was is refused when it comes after all.
    pub void: bool,
    /// A batch whose answer was lost is asked for, not sent again.
    pub settle: bool,
    /// Only a replica whose memory has all of the log up to there is brought forward.
    pub order: bool,
    /// What is answered was kept.
    pub durable: bool,
    /// Each taking of a lease raises its term.
    pub term: bool,
    /// A lease that nobody renews is seen not to change.
    pub still: bool,
    /// An operation whose worker is silent is put back when its lease is over.
    pub expiry: bool,
}

impl Checks {
    /// All of them.
    pub const ALL: Self = Self {
        fence: true,
        attempt: true,
        void: true,
        settle: true,
        order: true,
        durable: true,
        term: true,
        still: true,
        expiry: true,
    };
}

/// Bounds of a replica's memory, and its name.
#[derive(Debug, Clone)]
pub struct Options {
    /// The replica's name: of two that enter under one the later one writes.
    pub replica: String,
    /// Changes in the ring.
    pub ring_changes: usize,
    /// Bytes that may wait for one watcher.
    pub watcher_bytes: usize,
}

impl Options {
    /// A replica with room for a thousand changes.
    pub fn new(replica: impl Into<String>) -> Self {
        Self { replica: replica.into(), ring_changes: 1_000, watcher_bytes: 1 << 20 }
    }
}
