//! How a store is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::Clock;
use tokio::time::Instant;

use super::Address;
use super::schema::Step;

/// How a store is opened. [`Options::new`] gives the defaults; what is not said here is as for
/// [`sqlite::Options`](crate::sqlite::Options).
#[derive(Debug, Clone)]
pub struct Options {
    /// The database.
    pub address: Address,
    /// What this process is called among those that share the database. What an earlier process of the name held is
    /// given up at once, so whoever uses it must be alone: it belongs to a directory that is locked.
    pub replica: Arc<str>,
    /// Recent changes kept in memory for watches: 16,384.
    pub ring_changes: usize,
    /// Bytes of recent changes kept in memory: 16 MiB.
    pub ring_bytes: usize,
    /// Bytes that may wait for one watcher before it is ended as slow: 8 MiB.
    pub watcher_bytes: usize,
    /// Writes that may wait before [`StoreError::Busy`](crate::StoreError::Busy): 8,192.
    pub queue_items: usize,
    /// Bytes of writes that may wait before [`StoreError::Busy`](crate::StoreError::Busy): 64 MiB.
    pub queue_bytes: usize,
    /// History younger than this is kept: 5 minutes.
    pub retain_for: Duration,
    /// As many of the newest changes are kept: 10,000.
    pub retain_changes: u64,
    /// Never more changes than this are kept: 1,000,000.
    pub retain_at_most: u64,
    /// Connections for lists, and for what memory does not hold: 3.
    pub readers: usize,
    /// Ids of trimmed messages are remembered for so many numbers behind the oldest retained message: 100,000.
    pub id_window: u64,
    /// Revisions of one partition of the history, for a database that is new: 65,536.
    pub span: u64,
    /// Where is kept what this replica has seen, in its directory: nowhere. Without it a snapshot of the database's disk that is
    /// put back while no replica runs is not told from the database as it was.
    pub seen: Option<PathBuf>,
    /// One more step of the schema than this program's own. A drill of an upgrade has no later program, and adds one.
    pub further: Option<Step>,
    /// Tells what callers reckon with: the machine's.
    pub clock: Clock,
    /// What leases are judged by.
    pub time: Time,
}

/// What leases of operations, and what is due, are judged by.
#[derive(Debug, Clone, Copy)]
pub enum Time {
    /// The database's clock: one for all replicas.
    Database,
    /// The callers' Tokio clock, counted from a moment, and what they say of the wall clock: for tests, which drive them.
    Driven(Instant),
}

impl Options {
    /// The defaults for a database, and a replica of a name.
    pub fn new(address: Address, replica: impl Into<Arc<str>>) -> Self {
        Self {
            address,
            replica: replica.into(),
            ring_changes: 16_384,
            ring_bytes: 16 << 20,
            watcher_bytes: 8 << 20,
            queue_items: 8_192,
            queue_bytes: 64 << 20,
            retain_for: Duration::from_mins(5),
            retain_changes: 10_000,
            retain_at_most: 1_000_000,
            readers: 3,
            id_window: 100_000,
            span: 65_536,
            seen: None,
            further: None,
            clock: Clock::system(),
            time: Time::Database,
        }
    }
}
