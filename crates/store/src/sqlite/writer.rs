//! The one thread that writes.
//!
//! A turn takes the first job and whatever waits behind it, and makes one transaction of them: commit, publish, answer,
//! in that order. A little of the chores rides along.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use mainstay_runtime::fault::{self, Point};
use mainstay_runtime::guard::Guard;
use rusqlite::{Connection, ErrorCode};
use tokio::time::Instant;

use super::chores::{Chores, Done, IDLE_SLICE};
use super::jobs::{Broken, Found, Job, Jobs};
use super::keyring::Committed;
use super::operations::Leases;
use super::sessions::Sessions;
use super::turn::{Gathered, Turn};
use super::{Options, database};
use crate::error::StoreError;
use crate::hub::Hub;

/// How long a heartbeat may wait for company, and how often a full disk is tried.
const LINGER: Duration = Duration::from_secs(1);
/// How long the end waits for those who still read.
const LAST_READERS: Duration = Duration::from_secs(2);
/// Freed pages that are given back at a time, and how many must be there first.
const VACUUM_PAGES: u32 = 256;
const VACUUM_FROM: u32 = 2_048;

/// Whether writes are possible, and how many there were.
#[derive(Debug, Default)]
pub(super) struct Health {
    state: AtomicU8,
    commits: AtomicU64,
    writes: AtomicU64,
}

const WELL: u8 = 0;
const FULL: u8 = 1;
const CLOSED: u8 = 2;

impl Health {
    pub(super) fn writable(&self) -> Result<(), StoreError> {
        match self.state.load(Ordering::Acquire) {
            WELL => Ok(()),
            FULL => Err(StoreError::Full),
            _ => Err(StoreError::Closed),
        }
    }

    pub(super) fn open(&self) -> Result<(), StoreError> {
        if self.state.load(Ordering::Acquire) == CLOSED { Err(StoreError::Closed) } else { Ok(()) }
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        (self.commits.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed))
    }

    fn is_full(&self) -> bool {
        self.state.load(Ordering::Acquire) == FULL
    }
}

/// What the writer shares with those who call the store.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) hub: Arc<Hub>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) leases: Arc<Leases>,
    pub(super) keyring: Arc<Committed>,
    pub(super) jobs: Arc<Jobs>,
    pub(super) health: Arc<Health>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    parts: Parts,
    chores: Chores,
    /// When the oldest unwritten run row was noticed.
    dirty_since: Option<Instant>,
    /// Pages in the log after the last commit, and at how many it is copied next.
    log_pages: Arc<AtomicU32>,
    checkpoint_pages: u32,
    checkpoint_at: u32,
    vacuum: bool,
}

/// Tells everybody that the store is closed, however the thread ends.
struct Closing(Parts);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.health.state.store(CLOSED, Ordering::Release);
        self.0.jobs.close();
        self.0.hub.close();
        while let Found::Jobs(jobs) = self.0.jobs.take(Duration::ZERO) {
            for job in jobs {
                job.fail(&StoreError::Closed);
            }
        }
    }
}

impl Writer {
    pub(super) fn new(mut connection: Connection, options: &Options, parts: Parts) -> Result<Self, StoreError> {
        let log_pages = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&log_pages);
        connection
            .wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
                count.store(pages.unsigned_abs(), Ordering::Relaxed);
                Ok(())
            }))
            .map_err(database)?;
        let chores = Chores::new(&connection, options, parts.hub.floor()).map_err(database)?;
        let checkpoint_pages = options.checkpoint_pages;
        Ok(Self {
            connection,
            parts,
            chores,
            dirty_since: None,
            log_pages,
            checkpoint_pages,
            checkpoint_at: checkpoint_pages,
            vacuum: false,
        })
    }

    /// Works until the store is closed and nothing waits.
    pub(super) fn run(mut self) {
        let _closing = Closing(self.parts.clone());
        while let Found::Jobs(jobs) = self.parts.jobs.take(self.patience()) {
            self.chores.tick(Instant::now(), self.parts.hub.published());
            if !jobs.is_empty() || self.is_due() {
                self.turn(jobs);
            }
            self.checkpoint();
            self.give_back_space();
        }
        if self.parts.sessions.is_dirty() {
            self.turn(Vec::new());
        }
        self.leave_no_log();
    }

    /// After a clean end the database is one file, also when somebody else looks at it: SQLite by itself would leave its log
    /// to whoever closes last, who may only be allowed to read.
    fn leave_no_log(&self) {
        let copied = self.connection.busy_timeout(LAST_READERS).and_then(|()| {
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))
        });
        match copied {
            Ok(false) => {}
            Ok(true) => tracing::info!("the log stays beside the database: somebody reads it"),
            Err(error) => tracing::warn!(%error, "the log stays beside the database"),
        }
    }

    fn patience(&self) -> Duration {
        if self.parts.health.is_full() {
            return LINGER;
        }
        if self.chores.pending() || self.vacuum {
            return Duration::ZERO;
        }
        match self.dirty_since {
            Some(since) => LINGER.saturating_sub(since.elapsed()),
            None => self.chores.patience(self.parts.hub.published()),
        }
    }

    /// Whether something is to be written though nobody waits for it.
    fn is_due(&mut self) -> bool {
        if self.parts.sessions.is_dirty() {
            let since = *self.dirty_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= LINGER {
                return true;
            }
        }
        self.chores.pending() || self.parts.health.is_full()
    }

    /// One transaction.
    fn turn(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let dirty = self.parts.sessions.take_dirty();
        match self.transact(&mut jobs, &dirty) {
            Ok((gathered, done)) => self.finish(jobs, gathered, &done),
            Err(broken) => {
                self.parts.sessions.give_back(dirty);
                self.give_up(jobs, broken);
            }
        }
    }

    fn transact(&self, jobs: &mut [Box<dyn Job>], dirty: &HashSet<Arc<str>>) -> Result<(Gathered, Done), Broken> {
        let (connection, parts) = (&self.connection, &self.parts);
        let before = connection.total_changes();
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut turn = Turn::new(connection, &parts.hub, &parts.sessions, &parts.leases);
        turn.write_rows(dirty)?;
        for job in &mut *jobs {
            job.apply(&mut turn)?;
        }
        let gathered = turn.finish()?;
        let budget = match (parts.health.is_full(), jobs.len()) {
            (true, _) => 0,
            (false, 0) => IDLE_SLICE,
            // Twice as many as are written, so that the chores keep up under any load.
            (false, _) => 2 * gathered.rows + 8,
        };
        let done = self.chores.slice(connection, budget)?;
        if parts.health.is_full() {
            // Something must be written, or nothing would be tried.
            let probe =
                "INSERT INTO counters VALUES ('store/probe', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1";
            connection.prepare_cached(probe)?.execute([])?;
        }
        let changed = connection.total_changes() != before;
        if changed {
            fault::hit(Point::StoreBeforeCommit).map_err(Broken::Injected)?;
        }
        // Costs nothing when nothing was changed: a claim that finds nothing is only a read.
        connection.prepare_cached("COMMIT")?.execute([])?;
        if changed {
            parts.health.commits.fetch_add(1, Ordering::Relaxed);
            fault::hit(Point::StoreAfterCommit).ok();
        }
        Ok((gathered, done))
    }

    /// The batch is on disk: publish, then answer.
    fn finish(&mut self, jobs: Vec<Box<dyn Job>>, gathered: Gathered, done: &Done) {
        let parts = &self.parts;
        if parts.health.state.swap(WELL, Ordering::AcqRel) == FULL {
            tracing::info!("the disk has room again: writes are accepted");
        }
        self.dirty_since = None;
        parts.health.writes.fetch_add(gathered.changes.len() as u64, Ordering::Relaxed);
        parts.hub.publish(&gathered.changes);
        parts.sessions.publish(gathered.touched);
        parts.leases.publish(gathered.operations);
        if let Some(ring) = gathered.ring {
            parts.keyring.publish(ring);
        }
        if let Some(floor) = self.chores.settle(done) {
            parts.hub.raise_floor(floor);
        }
        for key in gathered.freed {
            self.chores.free_messages(key);
        }
        self.vacuum |= done.frees() && !self.chores.pending();
        fault::hit(Point::StoreAfterPublish).ok();
        for job in jobs {
            job.answer();
        }
        for (floor, reply) in gathered.compactions {
            self.chores.compact(floor, parts.hub.published(), reply);
        }
        self.chores.answer();
    }

    /// Nothing of the batch is on disk: everybody is told why, or the process stops.
    fn give_up(&mut self, jobs: Vec<Box<dyn Job>>, broken: Broken) {
        let error = match broken {
            Broken::Injected(injected) => StoreError::Database(Arc::new(injected)),
            Broken::Diverged(what) => stop(&format!("{what} on disk is not what is in memory")),
            Broken::Sql(error) => survivable(error),
        };
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            stop(&format!("a transaction cannot be rolled back: {error}"));
        }
        if matches!(error, StoreError::Full) && self.parts.health.state.swap(FULL, Ordering::AcqRel) == WELL {
            tracing::warn!("the disk is full: the store is read-only until there is room");
        }
        self.dirty_since = None;
        for job in jobs {
            job.fail(&error);
        }
    }

    /// Copies the log into the database when it has grown; between two batches, so that it always gets to the end.
    fn checkpoint(&mut self) {
        let pages = self.log_pages.load(Ordering::Relaxed);
        if pages < self.checkpoint_at {
            // The log starts anew once it was copied whole.
            self.checkpoint_at = if pages < self.checkpoint_pages { self.checkpoint_pages } else { self.checkpoint_at };
            return;
        }
        match self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(0)) {
            Ok(_) => {}
            Err(error) => match survivable(error) {
                StoreError::Full => self.parts.health.state.store(FULL, Ordering::Release),
                error => tracing::warn!(%error, "the log was not copied"),
            },
        }
        // A reader may have kept it from the end; that is tried again only after more was written.
        self.checkpoint_at = pages + self.checkpoint_pages / 4;
    }

    /// Gives pages that compaction has freed back to the file system, a few at a time.
    fn give_back_space(&mut self) {
        if !self.vacuum || self.parts.jobs.len() > 0 || self.parts.health.is_full() {
            return;
        }
        match self.vacuum_step() {
            Ok(more) => self.vacuum = more,
            Err(error) => {
                self.vacuum = false;
                let error = survivable(error);
                tracing::warn!(%error, "freed pages were not given back");
            }
        }
    }

    fn vacuum_step(&self) -> rusqlite::Result<bool> {
        let free: u32 = self.connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
        let all: u32 = self.connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        if free < VACUUM_FROM || free < all / 4 {
            return Ok(false);
        }
        let mut vacuum = self.connection.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
        Ok(true)
    }
}

/// The error that callers are told when the disk still holds what it held; otherwise the process stops.
fn survivable(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error() {
        None => database(error),
        Some(sqlite) if sqlite.code == ErrorCode::OutOfMemory => database(error),
        Some(sqlite) => {
            let code = sqlite.extended_code;
            match database(error) {
                StoreError::Database(error) if Guard::FailedSync.holds() => {
                    stop(&format!("{error} (SQLite code {code})"))
                }
                told => told,
            }
        }
    }
}

/// What the disk holds is unknown, so nothing in memory can be trusted, and nobody may be told of a success.
fn stop(why: &str) -> ! {
    let line = format!("mainstay: fatal: the store failed and the process stops: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
    std::process::abort();
}
