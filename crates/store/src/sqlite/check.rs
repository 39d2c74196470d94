//! Whether a directory's database says the same everywhere: read-only, at one moment, also while a process has it open.
//!
//! Every table is read once, in order, and nothing is kept of a row but its faults, of which there are at most
//! [`MOST_FAULTS`]: a million objects take no more memory than one.
//!
//! | step | since schema | what must hold |
//! |---|---|---|
//! | `file` | 1 | SQLite's own checks of pages and indices |
//! | `objects` | 1 | each current object is the newest change of its key, and no deletion |
//! | `history` | 1 | revisions have no gap above the floor, all of one epoch; no change is lost or left over; contents agree |
//! | `sessions` | 2 | each session's counters say what its messages are |
//! | `messages` | 2 | each message is of a session, and is JSON |
//! | `operations` | 3 | each operation has its object and its row, which agree |
//! | `lanes` | 3 | the lanes' counts are those of their rows; nobody waits for a key that nobody has |
//! | `journals` | 3 | each step is of an operation, in its place |

mod history;
mod operations;
mod sessions;
#[cfg(test)]
mod tests;

use std::path::Path;

use rusqlite::{Connection, ErrorCode};
use serde::Serialize;

use super::backup::{Contents, Progress, StateError, contents, look, version};
use super::database;
use crate::error::StoreError;
use crate::object::{Object, Revision};

/// The most faults of which a report holds more than the number.
pub const MOST_FAULTS: usize = 1_000;
/// Rows between two words about progress.
const WORD: u64 = 4_096;

const RESTORE: &str = "restore a backup";

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The step that found it.
    pub check: &'static str,
    /// What is concerned: an object's key, a session, a revision, a table.
    pub place: String,
    /// What is wrong, and what that means.
    pub meaning: String,
    /// What to do.
    pub remedy: &'static str,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What the database holds; `None` when that cannot be read.
    pub contents: Option<Contents>,
    /// Faults, at most [`MOST_FAULTS`].
    pub faults: Vec<Fault>,
    /// How many there are beside those.
    pub more: u64,
    /// Steps that this version of the tables is too old for.
    pub skipped: Vec<&'static str>,
}

impl Report {
    /// Whether all is as it must be, as far as it was looked at.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Adds what somebody else found.
    pub fn add(&mut self, fault: Fault) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(fault);
        } else {
            self.more += 1;
        }
    }
}

/// What is wrong inside an object that can be read, and what to do: knows what the objects' bytes mean, which the store
/// does not.
pub type Judge<'a> = &'a mut dyn FnMut(&Object) -> Vec<(String, &'static str)>;

/// One check of one database.
struct Check<'c> {
    connection: &'c Connection,
    step: &'static str,
    report: Report,
    judge: Judge<'c>,
    tell: Progress<'c>,
}

/// A step's name, the schema that it needs, and what it does.
type Step = (&'static str, u32, fn(&mut Check<'_>) -> rusqlite::Result<()>);

const STEPS: [Step; 8] = [
    ("file", 1, file),
    ("objects", 1, history::objects),
    ("history", 1, history::changes),
    ("sessions", 2, sessions::sessions),
    ("messages", 2, sessions::messages),
    ("operations", 3, operations::operations),
    ("lanes", 3, operations::lanes),
    ("journals", 3, operations::journals),
];

/// Checks the directory's database; `judge` is asked of each object and each earlier state of one that is kept. Blocks
/// while it reads.
///
/// # Errors
/// When it cannot be looked at: there is none, it is a newer program's, or the file system refuses. A database that is
/// damaged is no error but a fault.
pub fn check<'c>(dir: &Path, judge: Judge<'c>, tell: Progress<'c>) -> Result<Report, StateError> {
    let connection = look(dir)?;
    let report = Report { contents: None, faults: Vec::new(), more: 0, skipped: Vec::new() };
    let mut check = Check { connection: &connection, step: "file", report, judge, tell };
    // The first read fixes the moment.
    if let Err(error) = connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema") {
        check.broken(error)?;
        return Ok(check.report);
    }
    // Of a newer program's tables nothing is read.
    let schema = version(&connection)?;
    for (step, since, run) in STEPS {
        if schema < since {
            check.report.skipped.push(step);
            continue;
        }
        check.step = step;
        (check.tell)(step, 0, 0);
        if let Err(error) = run(&mut check) {
            check.broken(error)?;
        }
    }
    check.report.contents = contents(&connection).ok();
    Ok(check.report)
}

impl Check<'_> {
    fn fault(&mut self, place: impl Into<String>, meaning: impl Into<String>, remedy: &'static str) {
        self.report.add(Fault { check: self.step, place: place.into(), meaning: meaning.into(), remedy });
    }

    /// A step could not go on: because of what the file holds, which is a fault, or because it cannot be read.
    fn broken(&mut self, error: rusqlite::Error) -> Result<(), StoreError> {
        let damaged = match error.sqlite_error_code() {
            Some(code) => matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown),
            // A value that is not what its column must hold.
            None => true,
        };
        if !damaged {
            return Err(database(error));
        }
        let meaning = format!("the database is damaged: {error}; what comes after it was not looked at");
        self.fault("state.db", meaning, RESTORE);
        Ok(())
    }

    fn log(&self) -> rusqlite::Result<(Revision, Revision)> {
        let log = "SELECT revision, floor FROM log";
        self.connection.query_row(log, [], |row| Ok((Revision(row.get(0)?), Revision(row.get(1)?))))
    }

    fn count(&self, table: &str) -> rusqlite::Result<u64> {
        self.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
    }

    /// Goes through the rows of a query about a table.
    fn each(
        &mut self,
        table: &str,
        select: &str,
        mut row: impl FnMut(&mut Self, &rusqlite::Row<'_>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let connection = self.connection;
        let (all, mut done) = (self.count(table)?, 0);
        let mut statement = connection.prepare(select)?;
        let mut rows = statement.query([])?;
        while let Some(found) = rows.next()? {
            row(self, found)?;
            done += 1;
            if done % WORD == 0 {
                (self.tell)(self.step, done.min(all), all);
            }
        }
        (self.tell)(self.step, all, all);
        Ok(())
    }
}

fn file(check: &mut Check<'_>) -> rusqlite::Result<()> {
    let connection = check.connection;
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({MOST_FAULTS})"))?;
    let mut lines = statement.query([])?;
    while let Some(line) = lines.next()? {
        let line: String = line.get(0)?;
        if line != "ok" {
            check.fault("state.db", format!("SQLite finds the file damaged: {line}"), RESTORE);
        }
    }
    Ok(())
}
