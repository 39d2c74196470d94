//! Puts a state into a directory: all of it or nothing, whatever happens meanwhile, and in a new epoch of revisions.
//!
//! It is made ready in a directory beside, which one rename turns from nothing into everything; what is left then is to
//! move its parts into their places. Whoever takes the directory's lock completes that first, so nobody ever opens a
//! directory in which an old part lies beside a new one.
//!
//! | there is | a crash before | whoever comes next |
//! |---|---|---|
//! | `restore.new` | the rename | removes it: nothing was restored |
//! | `restore.ready` | all is in its place | moves the rest: everything is restored |
//!
//! What was given after the backup was taken is forgotten by the database, but not by the world. So nothing of it is given
//! again: the counter of revisions, all other counters, and the attempts of operations that may go on, continue above
//! the epoch's beginning, which is above all that there was.

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::backup::{STATE, StateError, contents, look};
use super::{Contents, Options, database, directory, schema};
use crate::object::Revision;

const NEW: &str = "restore.new";
const READY: &str = "restore.ready";
/// The newest epoch that was begun in this directory: known also when its database cannot be read, or is gone.
const EPOCH: &str = "epoch";
/// What was there before is kept under this name and the epoch that began.
const ASIDE: &str = "before-epoch-";
/// SQLite's files beside the database.
const LOGS: [&str; 2] = ["state.db-wal", "state.db-shm"];

/// A state that is being put into a directory. Dropped before it is finished, nothing of it stays.
#[derive(Debug)]
pub struct Restore {
    dir: PathBuf,
    /// The newest epoch that the directory knows of.
    known: u64,
    _held: File,
}

/// What was put into a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// As it is now: in its new epoch.
    pub contents: Contents,
    /// Where what was there before is kept, if anything was.
    pub aside: Option<PathBuf>,
}

impl Restore {
    /// Takes the directory, or makes it. One that has a database or one of `parts` is only taken to `replace` them.
    ///
    /// # Errors
    /// [`StateError::Present`]; [`crate::StoreError::Locked`] when a process uses the directory.
    pub fn begin(dir: &Path, parts: &[&str], replace: bool) -> Result<Self, StateError> {
        let held = directory::take(dir)?;
        let has =
            |name: &&&str| fs::symlink_metadata(dir.join(name)).is_ok_and(|found| found.is_dir() || found.len() > 0);
        let found: Vec<String> =
            [STATE].iter().chain(&LOGS).chain(parts).filter(has).map(|name| (*name).to_owned()).collect();
        if !found.is_empty() && !replace {
            return Err(StateError::Present { dir: dir.to_owned(), found });
        }
        let known = known_epoch(dir).map_err(StateError::io("look into", dir))?;
        let restore = Self { dir: dir.to_owned(), known, _held: held };
        let new = restore.place();
        DirBuilder::new().mode(0o700).create(&new).map_err(StateError::io("make", &new))?;
        Ok(restore)
    }

    /// Something in the world carries a number that was given, such as a fencing token: the new epoch is above it.
    pub fn above(&mut self, seen: Revision) {
        self.known = self.known.max(seen.epoch());
    }

    /// Where the parts are to be put: the database, and whatever else belongs to it, under the names that they will have.
    pub fn place(&self) -> PathBuf {
        self.dir.join(NEW)
    }

    /// Begins the new epoch, and puts everything into its place.
    ///
    /// # Errors
    /// When that fails. Nothing has changed then, save that what was complete already is completed by whoever opens the
    /// directory next.
    pub fn finish(self) -> Result<Restored, StateError> {
        let (new, ready) = (self.place(), self.dir.join(READY));
        let contents = begin_epoch(&new.join(STATE), self.known)?;
        let epoch = new.join(EPOCH);
        fs::write(&epoch, format!("{}\n", contents.epoch)).map_err(StateError::io("write", &epoch))?;
        sync(&new).map_err(StateError::io("sync", &new))?;
        fs::rename(&new, &ready).map_err(StateError::io("rename", &new))?;
        sync_dir(&self.dir).map_err(StateError::io("sync", &self.dir))?;
        settle(&self.dir).map_err(StateError::io("complete the restore of", &self.dir))?;
        let aside = self.dir.join(aside(contents.epoch));
        Ok(Restored { contents, aside: aside.exists().then_some(aside) })
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        fs::remove_dir_all(self.place()).ok();
    }
}

/// Whether a restore into the directory waits for its completion.
pub(super) fn is_unfinished(dir: &Path) -> bool {
    dir.join(READY).exists()
}

/// Completes what an earlier restore began, or removes it. The caller has the directory's lock.
pub(super) fn settle(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir.join(NEW)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let ready = dir.join(READY);
    if !ready.exists() {
        return Ok(());
    }
    let epoch = read_epoch(&ready).or_else(|| read_epoch(dir)).unwrap_or_default();
    let aside = dir.join(aside(epoch));
    let mut names = fs::read_dir(&ready)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<OsString>>>()?;
    // The epoch goes last: until then it names the directory for what was there.
    names.sort_by_key(|name| name == EPOCH);
    for name in &names {
        if name == STATE {
            // An old log would be taken for the new database's.
            for log in LOGS {
                set_aside(dir, &aside, log.as_ref())?;
            }
        }
        if name != EPOCH {
            set_aside(dir, &aside, name)?;
        }
        fs::rename(ready.join(name), dir.join(name))?;
    }
    sync_dir(dir)?;
    fs::remove_dir(&ready)?;
    sync_dir(dir)
}

fn aside(epoch: u64) -> String {
    format!("{ASIDE}{epoch}")
}

fn set_aside(dir: &Path, aside: &Path, name: &OsStr) -> io::Result<()> {
    if fs::symlink_metadata(dir.join(name)).is_err() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(aside)?;
    fs::rename(dir.join(name), aside.join(name))?;
    sync_dir(aside)
}

/// The newest epoch that anything in the directory tells of. A database that cannot be read tells nothing.
fn known_epoch(dir: &Path) -> io::Result<u64> {
    let database = look(dir).ok().and_then(|connection| contents(&connection).ok());
    let mut known = read_epoch(dir).into_iter().chain(database.map(|found| found.epoch)).max().unwrap_or_default();
    for entry in fs::read_dir(dir)? {
        // What was set aside was so for an epoch that began.
        let name = entry?.file_name();
        let epoch = name.to_str().and_then(|name| name.strip_prefix(ASIDE)).and_then(|epoch| epoch.parse().ok());
        known = known.max(epoch.unwrap_or_default());
    }
    Ok(known)
}

fn read_epoch(dir: &Path) -> Option<u64> {
    fs::read_to_string(dir.join(EPOCH)).ok()?.trim().parse().ok()
}

/// Brings the database to this program's schema and into an epoch that is above its own and above `known`. Of its history
/// only the current objects stay: nobody can ask for what was before an epoch.
fn begin_epoch(path: &Path, known: u64) -> Result<Contents, StateError> {
    let mut connection = schema::open(path, &Options::new(path.parent().unwrap_or(path)))?;
    let before = contents(&connection)?;
    let start = Revision::start_of(before.epoch.max(known) + 1);
    enter(&mut connection, start).map_err(database)?;
    let contents = contents(&connection)?;
    // One file again.
    connection.pragma_update(None, "journal_mode", "DELETE").map_err(database)?;
    connection.close().map_err(|(_, error)| database(error))?;
    Ok(contents)
}

fn enter(connection: &mut Connection, start: Revision) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute("UPDATE log SET revision = ?1, floor = ?1", [start.0])?;
    transaction.execute("DELETE FROM history WHERE revision NOT IN (SELECT revision FROM objects)", [])?;
    // Fencing tokens, terms and the like; one that is first raised from now on begins above the epoch, too.
    transaction.execute("UPDATE counters SET value = max(value, ?1)", [start.0])?;
    // Not those that ended for good; a dead letter may be replayed.
    transaction.execute("UPDATE operations SET attempt = max(attempt, ?1) WHERE state NOT IN (4, 5)", [start.0])?;
    transaction.commit()
}

/// Syncs a directory with all that is in it.
fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { sync(&path)? } else { File::open(&path)?.sync_all()? }
    }
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
