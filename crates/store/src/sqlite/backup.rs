//! Looks at a directory's database from outside: read-only, whether or not a process has the directory open, at one
//! moment. A copy of that moment is what a backup holds.
//!
//! Nothing here takes the directory's lock, and nothing waits for the writer or holds it up: only the log is not begun
//! anew while such a look lasts.

#[cfg(test)]
pub(super) mod tests;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_runtime::{Class, Classify, Reason};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use super::{database, moved, restore, schema};
use crate::error::StoreError;
use crate::object::Revision;
use crate::operation::OPERATIONS;

/// The database's file in its directory.
pub const STATE: &str = "state.db";
/// Pages that are copied between two words about it: 4 MiB.
const STRIDE: i32 = 1_024;
/// How long a lock of another process is waited for, which holds it for moments only.
const BUSY: Duration = Duration::from_secs(10);

/// Tells how far something is: of the named step, so many of so many.
pub type Progress<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// What a database holds at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The version of its tables.
    pub schema: u32,
    /// Its newest revision.
    pub revision: Revision,
    /// Its epoch of revisions.
    pub epoch: u64,
    /// Current objects, the operations among them.
    pub objects: u64,
    /// Current operations.
    pub operations: u64,
    /// Messages, those among them that only their ids are kept of.
    pub messages: u64,
}

/// A directory's state cannot be looked at, or put back.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is none.
    #[error("there is no state in {}", .0.display())]
    Missing(PathBuf),
    /// A restore has ended half-way.
    #[error("a restore into {} was cut short; the next `mainstay serve` or `mainstay restore` completes it", .0.display())]
    Unfinished(PathBuf),
    /// There is one already.
    #[error("{} holds a state already: {}", dir.display(), found.join(", "))]
    Present {
        /// The directory.
        dir: PathBuf,
        /// What of it is there.
        found: Vec<String>,
    },
    /// The file system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store refused, or its database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StateError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

impl Classify for StateError {
    fn class(&self) -> Class {
        match self {
            Self::Missing(_) => Class::Terminal(Reason::NotFound),
            Self::Present { .. } => Class::Terminal(Reason::AlreadyExists),
            Self::Unfinished(_) | Self::Io { .. } => Class::TRANSIENT,
            Self::Store(error) => error.class(),
        }
    }
}

/// Opens the directory's database to look at it, at this moment for as long as the connection lives.
pub(super) fn look(dir: &Path) -> Result<Connection, StateError> {
    if restore::is_unfinished(dir) {
        return Err(StateError::Unfinished(dir.to_owned()));
    }
    let path = dir.join(STATE);
    match std::fs::metadata(&path) {
        Ok(found) if found.len() > 0 || log_has_something(dir) => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StateError::io("examine", &path)(error)),
        _ => return Err(StateError::Missing(dir.to_owned())),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(database)?;
    connection.busy_timeout(BUSY).map_err(database)?;
    connection.pragma_update(None, "trusted_schema", false).map_err(database)?;
    Ok(connection)
}

/// A first start that was killed may have left everything in the log.
fn log_has_something(dir: &Path) -> bool {
    std::fs::metadata(dir.join("state.db-wal")).is_ok_and(|log| log.len() > 0)
}

/// The version of the tables, when this program knows it.
pub(super) fn version(connection: &Connection) -> Result<u32, StoreError> {
    let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(database)?;
    if found > schema::known() {
        Err(StoreError::NewerSchema { found, oldest: found, known: schema::known() })
    } else {
        Ok(found)
    }
}

pub(crate) fn contents(connection: &Connection) -> Result<Contents, StoreError> {
    let schema = version(connection)?;
    let count = |select: &str| connection.query_row(select, [], |row| row.get(0)).map_err(database);
    let revision = Revision(count("SELECT revision FROM log")?);
    let operations = "SELECT count(*) FROM objects WHERE resource = ?1";
    Ok(Contents {
        schema,
        revision,
        epoch: revision.epoch(),
        objects: count("SELECT count(*) FROM objects")?,
        operations: connection.query_row(operations, [OPERATIONS], |row| row.get(0)).map_err(database)?,
        messages: count("SELECT count(*) FROM messages")?,
    })
}

/// Copies the directory's database, as it is at one moment, into a new file: complete in itself, 0600, durable.
/// Blocks while it copies; `tell` hears of bytes.
///
/// # Errors
/// [`StateError::Missing`], [`StateError::Unfinished`], [`StoreError::NewerSchema`], [`StoreError::Moved`], or what the file
/// systems said.
pub fn copy(dir: &Path, to: &Path, tell: Progress<'_>) -> Result<Contents, StateError> {
    // A copy of what was left behind would be taken for a backup of what goes on.
    moved::refuse(dir)?;
    let from = look(dir)?;
    // The first read fixes the moment.
    from.execute_batch("BEGIN").map_err(database)?;
    let contents = contents(&from)?;
    let page: u64 = from.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(database)?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    made.map_err(StateError::io("make", to))?;
    let mut copy = Connection::open(to).map_err(database)?;
    // What is half-written by a crash is thrown away: no journal, and one sync at the end.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").map_err(database)?;
    let backup = Backup::new(&from, &mut copy).map_err(database)?;
    loop {
        let step = backup.step(STRIDE).map_err(database)?;
        let progress = backup.progress();
        let (all, left) = (i64::from(progress.pagecount), i64::from(progress.remaining));
        tell("copy the database", (all - left).unsigned_abs() * page, all.unsigned_abs() * page);
        match step {
            StepResult::Done => break,
            StepResult::More => {}
            // Nobody else has the copy, and readers of the log wait for nobody.
            _ => return Err(StoreError::Busy.into()),
        }
    }
    drop(backup);
    // One file, which needs no log beside it to be read.
    copy.pragma_update(None, "journal_mode", "DELETE").map_err(database)?;
    copy.close().map_err(|(_, error)| database(error))?;
    let synced = OpenOptions::new().write(true).open(to).and_then(|file| file.sync_all());
    synced.map_err(StateError::io("sync", to))?;
    Ok(contents)
}
