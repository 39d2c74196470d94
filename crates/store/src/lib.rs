//! Revisioned objects and session messages behind one trait. The only crate that holds SQL.
//!
//! [`Store`] is a log of changes under one gap-free revision counter in commit order. [`sqlite`] implements it for one
//! process, [`postgres`] for several; the conformance suite in `conformance` holds for both.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod error;
mod given;
mod hub;
pub mod keyring;
pub mod lease;
mod leases;
#[cfg(any(test, feature = "conformance"))]
pub mod memory;
pub mod message;
pub mod migrate;
pub mod object;
pub mod operation;
pub mod postgres;
pub mod sqlite;
mod sync;
pub mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::lease::Leases;

pub use error::StoreError;
pub use given::Given;
pub use keyring::{KeyRow, Keyring, Ring, RingChange};
pub use lease::Fence;
pub use message::{Append, Appended, Message, NewMessage, Page as MessagePage, Retention, RunRow, Sender};
pub use object::{Draft, Key, Meta, Object, Requires, Revision, Write};
pub use operation::Queue;
pub use postgres::PostgresStore;
pub use sqlite::{Options, SqliteStore};
pub use watch::{Change, ChangeKind, Scope, Watch, WatchEnd};

/// The state of a control plane: objects with revisions, their history, and session messages.
///
/// Every method may be called from any task. A write is acknowledged only when it is durable, and its revision is then
/// already visible to `get`, `list` and every watch (read-your-writes). Dropping the future of a write does not undo
/// it: it may still commit.
pub trait Store: Queue + Keyring + Send + Sync + 'static {
    /// The current state of one object; `None` when there is none.
    fn get(&self, key: &Key) -> BoxFuture<'_, Result<Option<Arc<Object>>, StoreError>>;

    /// One page of a scope, in key order, at one snapshot.
    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<ListPage, StoreError>>;

    /// Applies one write, compare-and-swap; all writes in flight share commits (group commit).
    ///
    /// # Errors
    /// [`StoreError::Unmet`], [`StoreError::Exists`], [`StoreError::Missing`], [`StoreError::Conflict`] leave nothing
    /// behind and take no revision; the first of them that applies, in this order.
    fn write(&self, write: Write) -> BoxFuture<'_, Result<Arc<Object>, StoreError>> {
        self.write_given(Given::default(), write)
    }

    /// Applies a write of a leader, if it still is one: its term is looked at in the write's own transaction.
    ///
    /// # Errors
    /// As [`Store::write`]; before all of these, [`StoreError::Deposed`] when the term is not the lease's newest.
    fn write_under(&self, fence: Fence, write: Write) -> BoxFuture<'_, Result<Arc<Object>, StoreError>> {
        self.write_given(fence.into(), write)
    }

    /// Applies a write if something holds besides.
    ///
    /// # Errors
    /// As [`Store::write_under`]; what is given and does not hold is [`StoreError::Unmet`] of the object that is
    /// required, or of the write's own.
    fn write_given(&self, given: Given, write: Write) -> BoxFuture<'_, Result<Arc<Object>, StoreError>>;

    /// The leases of all that share this state, as this process sees them.
    fn leases(&self) -> Arc<dyn Leases>;

    /// Changes of a scope with a revision above `after`, in revision order, each once; then on, live.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when `after` is below the compaction floor, [`StoreError::Future`] when it is above the
    /// newest revision.
    fn watch(&self, scope: Scope, after: Revision) -> BoxFuture<'_, Result<Watch, StoreError>>;

    /// The newest revision that is visible.
    fn revision(&self) -> Revision;

    /// Makes everything up to a revision visible that another process may have told of, if it is there by now. Where
    /// nobody else writes, that is so already.
    ///
    /// # Errors
    /// [`StoreError::Away`] when the database does not say in time.
    fn reach(&self, _: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        std::future::ready(Ok(())).boxed()
    }

    /// The compaction floor: watches and snapshots below it are [`StoreError::Expired`].
    fn floor(&self) -> Revision;

    /// Drops history at or below `floor`, in small batches; current objects stay.
    fn compact(&self, floor: Revision) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Appends messages of one session exactly once per sender and id, gives each its number, and lets go of what is
    /// more than may be kept, all at once.
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Vec<Appended>, StoreError>>;

    /// Messages of a session after a number, in order.
    fn messages(&self, session: &str, after: u64, limit: usize) -> BoxFuture<'_, Result<MessagePage, StoreError>>;

    /// The number of the session's last message, and a receiver that changes with it.
    fn message_counter(&self, session: &str) -> BoxFuture<'_, Result<tokio::sync::watch::Receiver<u64>, StoreError>>;

    /// Forgets a session's messages and its run row.
    fn drop_session(&self, session: &str) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The sessions of which something is kept, in no order: messages, a number that was given, or a run row.
    fn sessions(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, StoreError>>;

    /// The session's heartbeat and cursor row; outside the revision log.
    fn run_row(&self, session: &str) -> BoxFuture<'_, Result<Option<RunRow>, StoreError>>;

    /// Stores the row; `durable` waits for the commit, otherwise it is written with the next batch (a heartbeat).
    fn put_run_row(&self, session: &str, row: RunRow, durable: bool) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Raises a named counter by one and gives its new value, durably (the fencing token, the boot count).
    fn raise(&self, counter: &str) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Whether writes are possible now; `Err` says why not (for `/readyz`).
    fn ready(&self) -> Result<(), StoreError>;

    /// Figures for `/metrics`.
    fn stats(&self) -> Stats;

    /// Finishes what was accepted and closes; later calls fail with [`StoreError::Closed`].
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What to list.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// Which objects.
    pub scope: Scope,
    /// At most this many; `None` for all.
    pub limit: Option<usize>,
    /// The snapshot to read; `None` for the newest.
    pub at: Option<Revision>,
    /// Only keys after this (namespace, name), which the previous page ended with.
    pub after: Option<(String, String)>,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct ListPage {
    /// The snapshot that all pages of this list show.
    pub revision: Revision,
    /// In key order.
    pub items: Vec<Arc<Object>>,
    /// Whether objects of the scope come after this page in the snapshot.
    pub more: bool,
    /// How many, when that is known without counting them.
    pub remaining: Option<usize>,
}

/// Figures for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Objects in memory now: all but operations.
    pub objects: u64,
    /// Commits since start.
    pub commits: u64,
    /// Writes that succeeded since start.
    pub writes: u64,
    /// Open watches.
    pub watchers: u64,
    /// Watches ended because their reader was too slow.
    pub slow_watchers_ended: u64,
    /// Writes waiting for the writer now.
    pub queued: u64,
}

/// Locks a mutex; a panic elsewhere never left the data inside half-changed, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refuse<T: Send + 'static>(error: StoreError) -> BoxFuture<'static, Result<T, StoreError>> {
    std::future::ready(Err(error)).boxed()
}

fn at_most(size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit { Err(StoreError::TooLarge { size, limit }) } else { Ok(()) }
}
