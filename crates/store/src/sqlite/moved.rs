//! A state that goes to another database, and a directory that says so, so that nobody goes on with what it left behind.
//!
//! | there is | the state is | who opens the directory |
//! |---|---|---|
//! | neither file | here | goes on |
//! | `moving-to-postgres` | here or there: its last step was cut short | is refused; a repeated migration finds out |
//! | `moved-to-postgres` | there | is refused, until somebody removes the file |
//!
//! Both hold the database's name, without user and password, and the migration's id, each in a line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use uuid::Uuid;

use super::backup::{STATE, StateError, look};
use super::{Options, database, directory, schema};
use crate::error::StoreError;

/// The state is elsewhere.
pub const MOVED: &str = "moved-to-postgres";
/// It may be.
const MOVING: &str = "moving-to-postgres";

/// Where a state goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The database, as people know it.
    pub(crate) database: String,
    /// The migration's own.
    pub(crate) id: Uuid,
}

/// A state that is taken away: nobody else opens its directory meanwhile.
#[derive(Debug)]
pub(crate) struct Leaving {
    dir: PathBuf,
    connection: Connection,
    _held: File,
}

/// Whether the state that a directory holds is elsewhere by now.
pub fn is_moved(dir: &Path) -> bool {
    dir.join(MOVED).exists()
}

/// Refuses a directory whose state is elsewhere, or may be.
pub(super) fn refuse(dir: &Path) -> Result<(), StoreError> {
    for (name, settled) in [(MOVED, true), (MOVING, false)] {
        let file = dir.join(name);
        match read(&file) {
            Ok(None) => {}
            Ok(Some(mark)) => return Err(StoreError::Moved { database: mark.database, file, settled }),
            Err(error) => return Err(StoreError::Database(std::sync::Arc::new(error))),
        }
    }
    Ok(())
}

impl Leaving {
    /// Takes the directory, and its state as it is: brought to this program's schema, and read at one moment.
    ///
    /// # Errors
    /// [`StateError::Missing`]; [`StoreError::Moved`] when it is elsewhere; [`StoreError::Locked`] when a process uses the
    /// directory.
    pub(crate) fn begin(dir: &Path) -> Result<Self, StateError> {
        // Nothing is made where nothing is.
        match look(dir) {
            Err(StateError::Unfinished(_)) => {}
            looked => drop(looked?),
        }
        let held = directory::take(dir)?;
        match refuse(dir) {
            Err(StoreError::Moved { settled: false, .. }) => {}
            refused => refused?,
        }
        let connection = schema::open(&dir.join(STATE), &Options::new(dir))?;
        connection.execute_batch("BEGIN").map_err(database)?;
        Ok(Self { dir: dir.to_owned(), connection, _held: held })
    }

    /// The state.
    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The migration that was cut short in its last step.
    pub(crate) fn pending(&self) -> Result<Option<Mark>, StateError> {
        let file = self.file();
        read(&file).map_err(StateError::io("read", &file))
    }

    /// What may make the state be elsewhere is about to happen.
    pub(crate) fn mark(&self, mark: &Mark) -> Result<(), StateError> {
        let file = self.file();
        let write = || {
            let mut made = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&file)?;
            write!(made, "{}\n{}\n", mark.database, mark.id)?;
            made.sync_all()?;
            self.sync()
        };
        write().map_err(StateError::io("write", &file))
    }

    /// It did not happen.
    pub(crate) fn unmark(&self) -> Result<(), StateError> {
        let file = self.file();
        fs::remove_file(&file).and_then(|()| self.sync()).map_err(StateError::io("remove", &file))
    }

    /// It happened.
    pub(crate) fn finish(self) -> Result<(), StateError> {
        let file = self.file();
        fs::rename(&file, self.dir.join(MOVED)).and_then(|()| self.sync()).map_err(StateError::io("rename", &file))
    }

    /// That says that the state may be elsewhere.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join(MOVING)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

fn read(file: &Path) -> io::Result<Option<Mark>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let mut lines = text.lines();
    let database = lines.next().unwrap_or_default().to_owned();
    // One that a crash left empty marks nothing that was begun: the next step had to wait until it was written.
    let id = lines.next().and_then(|line| line.parse().ok()).unwrap_or_default();
    Ok(Some(Mark { database, id }))
}
