//! The store over one SQLite file.
//!
//! One thread owns the writing connection and commits in groups (`writer`). The newest state is served from memory
//! (`hub`); older snapshots, operations, replays and messages are read on a few read-only connections (`readers`).
//!
//! Invariants:
//! - An acknowledged write is on disk (`synchronous=FULL`), and visible.
//! - Memory holds exactly the committed state, save the operations: a lock on the directory keeps other processes out, and only the writer
//!   publishes, after its commit.
//! - After a failed sync the process stops: what the disk holds is then unknown. A full disk only fails writes.

pub mod backup;
pub mod check;
mod chores;
mod directory;
mod history;
mod jobs;
pub mod keyring;
pub mod moved;
mod objects;
mod operations;
mod readers;
pub mod restore;
mod schema;
mod sessions;
mod terms;
#[cfg(test)]
mod tests;
mod turn;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::Clock;
use mainstay_runtime::lease::{self, LocalLeases};
use tokio::sync::{oneshot, watch};

use crate::error::StoreError;
use crate::given::Given;
use crate::hub::{Bounds, Hub};
use crate::message::{Append, Appended, MAX_MESSAGE, Page, RunRow};
use crate::object::{Key, MAX_OBJECT, Object, Revision, Write};
use crate::operation;
use crate::watch::{Scope, Watch};
use crate::{ListPage, ListQuery, Stats, Store, at_most, lock, refuse};
pub use backup::{Contents, StateError};
pub use directory::take as take_directory;
use history::History;
use jobs::{Failed, Jobs, job};
use keyring::Committed;
use operations::Leases;
use readers::Readers;
use sessions::Sessions;
use turn::Turn;
use writer::{Health, Parts, Writer};

/// How a store is opened. [`Options::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory; made if it is missing (0700).
    pub dir: PathBuf,
    /// Recent changes kept in memory for watches: 16,384.
    pub ring_changes: usize,
    /// Bytes of recent changes kept in memory: 16 MiB. (Bytes of current objects are shared.)
    pub ring_bytes: usize,
    /// Bytes that may wait for one watcher before it is ended as slow: 8 MiB.
    pub watcher_bytes: usize,
    /// Writes that may wait before [`StoreError::Busy`]: 8,192.
    pub queue_items: usize,
    /// Bytes of writes that may wait before [`StoreError::Busy`]: 64 MiB.
    pub queue_bytes: usize,
    /// History younger than this is kept: 5 minutes. Only history that all three bounds give up is compacted, save that
    /// `retain_at_most` overrules the other two.
    pub retain_for: Duration,
    /// As many of the newest changes are kept: 10,000.
    pub retain_changes: u64,
    /// Never more changes than this are kept: 1,000,000.
    pub retain_at_most: u64,
    /// Read-only connections, each opened when it is first needed: 4.
    pub readers: usize,
    /// Ids of trimmed messages are remembered for so many numbers behind the oldest retained message: 100,000.
    pub id_window: u64,
    /// Pages of 4 KiB after which the log is copied into the database: 4,000.
    pub checkpoint_pages: u32,
    /// Pages of 4 KiB that the database may have, for tests of a full disk; `None` for no bound of our own.
    pub max_pages: Option<u32>,
    /// Tells how long operations wait, for figures: the machine's.
    pub clock: Clock,
}

impl Options {
    /// The defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            ring_changes: 16_384,
            ring_bytes: 16 << 20,
            watcher_bytes: 8 << 20,
            queue_items: 8_192,
            queue_bytes: 64 << 20,
            retain_for: Duration::from_mins(5),
            retain_changes: 10_000,
            retain_at_most: 1_000_000,
            readers: 4,
            id_window: 100_000,
            checkpoint_pages: 4_000,
            max_pages: None,
            clock: Clock::system(),
        }
    }
}

/// A [`Store`] in one directory.
#[derive(Debug)]
pub struct SqliteStore {
    hub: Arc<Hub>,
    sessions: Arc<Sessions>,
    leases: Arc<Leases>,
    keyring: Arc<Committed>,
    leadership: Arc<LocalLeases>,
    jobs: Arc<Jobs>,
    health: Arc<Health>,
    readers: Arc<Readers>,
    history: Arc<History>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    closed: Mutex<Option<oneshot::Receiver<()>>>,
}

impl SqliteStore {
    /// Opens the directory, or makes it, and loads the current objects. Blocks while it reads.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::NewerSchema`] when a newer program wrote
    /// it, and [`StoreError::Database`].
    #[expect(clippy::needless_pass_by_value, reason = "options are made for one opening")]
    pub fn open(options: Options) -> Result<Arc<Self>, StoreError> {
        let held = directory::hold(&options.dir)?;
        let path = options.dir.join(backup::STATE);
        let connection = match schema::open(&path, &options) {
            Err(StoreError::Full) if directory::release_reserve(&options.dir) => schema::open(&path, &options)?,
            opened => opened?,
        };
        directory::keep_reserve(&options.dir);
        let (objects, floor) = schema::load(&connection)?;
        let bounds = Bounds {
            ring_changes: options.ring_changes,
            ring_bytes: options.ring_bytes,
            watcher_bytes: options.watcher_bytes,
        };
        let parts = Parts {
            hub: Arc::new(Hub::new(bounds, objects, floor)),
            sessions: Arc::new(Sessions::load(&connection)?),
            leases: Arc::new(Leases::load(&connection, options.clock.clone()).map_err(database)?),
            keyring: Arc::new(Committed::load(&connection).map_err(database)?),
            jobs: Arc::new(Jobs::new(options.queue_items, options.queue_bytes)),
            health: Arc::new(Health::default()),
        };
        let readers = Arc::new(Readers::new(path, options.readers));
        let history = Arc::new(History::new(Arc::clone(&parts.hub), Arc::clone(&readers)));
        let (done, closed) = oneshot::channel();
        let writer = Writer::new(connection, &options, parts.clone())?;
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                writer.run();
                drop(held);
                done.send(()).ok();
            })
            .map_err(|error| StoreError::Database(Arc::new(error)))?;
        let (thread, closed) = (Mutex::new(Some(thread)), Mutex::new(Some(closed)));
        let Parts { hub, sessions, leases, keyring, jobs, health } = parts;
        let leadership = Arc::new(LocalLeases::new(terms::Stored(Arc::clone(&jobs))));
        Ok(Arc::new(Self {
            hub,
            sessions,
            leases,
            keyring,
            leadership,
            jobs,
            health,
            readers,
            history,
            thread,
            closed,
        }))
    }

    /// Has something done by the writer, within `size` bytes of what may wait, and gives its answer.
    fn submit<T: Send + 'static>(
        &self,
        size: usize,
        act: impl FnOnce(&mut Turn<'_>) -> Result<T, Failed> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel();
        if let Err(refused) = self.jobs.push(job(act, reply), size) {
            return refuse(refused);
        }
        async move { answer.await.unwrap_or(Err(StoreError::Closed)) }.boxed()
    }
}

impl SqliteStore {
    fn write_if(&self, given: Given, write: Write) -> BoxFuture<'static, Result<Arc<Object>, StoreError>> {
        let size = write.draft().len();
        if let Err(error) = at_most(size, MAX_OBJECT) {
            return refuse(error);
        }
        match serde_json::to_string(&write.draft().meta) {
            Ok(meta) => self.submit(size, move |turn| {
                turn.meets(&given, &write)?;
                turn.write(&write, &meta)
            }),
            Err(error) => refuse(StoreError::Database(Arc::new(error))),
        }
    }
}

impl Store for SqliteStore {
    fn get(&self, key: &Key) -> BoxFuture<'_, Result<Option<Arc<Object>>, StoreError>> {
        match self.health.open() {
            Ok(()) if operation::on_disk(&key.resource) => self.history.get(key.clone()),
            open => std::future::ready(open.map(|()| self.hub.get(key))).boxed(),
        }
    }

    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        let now = self.health.open().and_then(|()| self.hub.list(&query));
        match now {
            Ok(Some(page)) => std::future::ready(Ok(page)).boxed(),
            Ok(None) => self.history.list(query),
            Err(error) => refuse(error),
        }
    }

    fn write_given(&self, given: Given, write: Write) -> BoxFuture<'_, Result<Arc<Object>, StoreError>> {
        self.write_if(given, write)
    }

    fn leases(&self) -> Arc<dyn lease::Leases> {
        self.leadership.clone()
    }

    fn watch(&self, scope: Scope, after: Revision) -> BoxFuture<'_, Result<Watch, StoreError>> {
        let history = Arc::clone(&self.history) as _;
        let watch = self.health.open().and_then(|()| self.hub.watch(history, scope, after));
        std::future::ready(watch).boxed()
    }

    fn revision(&self) -> Revision {
        self.hub.published()
    }

    fn floor(&self) -> Revision {
        self.hub.floor()
    }

    fn compact(&self, floor: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        let (reply, complete) = oneshot::channel();
        let begun = self.submit(0, move |turn| {
            turn.compact((floor, reply));
            Ok(())
        });
        async move {
            begun.await?;
            complete.await.unwrap_or(Err(StoreError::Closed))
        }
        .boxed()
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Vec<Appended>, StoreError>> {
        let largest = append.messages.iter().map(|message| message.body.len()).max().unwrap_or(0);
        if let Err(error) = at_most(largest, MAX_MESSAGE) {
            return refuse(error);
        }
        let size = append.messages.iter().map(|message| message.body.len() + 64).sum();
        self.submit(size, move |turn| turn.append(&append))
    }

    fn messages(&self, session: &str, after: u64, limit: usize) -> BoxFuture<'_, Result<Page, StoreError>> {
        if let Err(error) = self.health.open() {
            return refuse(error);
        }
        let session = session.to_owned();
        let readers = Arc::clone(&self.readers);
        async move { readers.run(move |connection| sessions::page(connection, &session, after, limit)).await }.boxed()
    }

    fn message_counter(&self, session: &str) -> BoxFuture<'_, Result<watch::Receiver<u64>, StoreError>> {
        std::future::ready(self.health.open().map(|()| self.sessions.counter(session))).boxed()
    }

    fn drop_session(&self, session: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let session = Arc::from(session);
        self.submit(0, move |turn| turn.drop_session(&session))
    }

    fn sessions(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, StoreError>> {
        std::future::ready(self.health.open().map(|()| self.sessions.names())).boxed()
    }

    /// A row is read as it was put last, even before that is durable.
    fn run_row(&self, session: &str) -> BoxFuture<'_, Result<Option<RunRow>, StoreError>> {
        std::future::ready(self.health.open().map(|()| self.sessions.row(session))).boxed()
    }

    fn put_run_row(&self, session: &str, row: RunRow, durable: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        if let Err(error) = self.health.open() {
            return refuse(error);
        }
        self.sessions.put_row(session, row);
        if durable {
            return self.submit(0, |_| Ok(()));
        }
        self.jobs.nudge();
        std::future::ready(Ok(())).boxed()
    }

    fn raise(&self, counter: &str) -> BoxFuture<'_, Result<u64, StoreError>> {
        let name = counter.to_owned();
        self.submit(0, move |turn| turn.raise(&name))
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.health.writable()
    }

    fn stats(&self) -> Stats {
        let (watchers, slow_watchers_ended) = self.hub.counts();
        let (commits, writes) = self.health.counts();
        let objects = self.hub.objects().count();
        Stats { objects, commits, writes, watchers, slow_watchers_ended, queued: self.jobs.len() as u64 }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // First: the writer leaves no log behind when nobody reads it any more.
        self.readers.close();
        self.jobs.close();
        let closed = lock(&self.closed).take();
        async move {
            if let Some(closed) = closed {
                closed.await.ok();
            }
        }
        .boxed()
    }
}

impl Drop for SqliteStore {
    /// Waits for the writer, so that the directory is free when the store is gone.
    fn drop(&mut self) {
        self.readers.close();
        self.jobs.close();
        if let Some(thread) = lock(&self.thread).take() {
            thread.join().ok();
        }
    }
}

/// The log's shared index could not grow: there is no room, and it is not data.
fn lacks_index(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}

/// The failure of a statement, with its class.
pub(crate) fn database(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        _ if lacks_index(&error) => StoreError::Full,
        Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full,
        Some(rusqlite::ErrorCode::DatabaseBusy) => StoreError::Busy,
        _ => StoreError::Database(Arc::new(error)),
    }
}
