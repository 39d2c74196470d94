//! The newest revision that this replica has seen, kept in its directory.
//!
//! A snapshot of the database's disk that is put back looks as the database did then, and a backup may be restored twice: what
//! clients were told meanwhile is known only to those who told them. Whoever enters, and has seen more than there is, begins an
//! epoch. What was seen in the last seconds before a crash may be missing here.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_runtime::file;
use serde::{Deserialize, Serialize};

use super::link::Link;
use crate::error::StoreError;
use crate::object::Revision;

/// See the module.
#[derive(Debug)]
pub(super) struct Seen {
    file: Option<PathBuf>,
    /// What the database and all copies of it have in common.
    line: String,
    /// What the file says.
    kept: AtomicU64,
}

#[derive(Serialize, Deserialize)]
struct Record {
    line: String,
    revision: u64,
}

impl Seen {
    /// What was seen of this database. A file that says nothing of it is begun anew.
    pub(super) async fn of(link: &Link, file: Option<PathBuf>) -> Result<Self, StoreError> {
        let line: String = link.one("SELECT line::text FROM mainstay.log", &[]).await?.get(0);
        let read = |path: &PathBuf| match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice::<Record>(&bytes).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let record = match file.as_ref().map(read) {
            Some(Ok(record)) => record.filter(|record| record.line == line),
            Some(Err(error)) => {
                tracing::warn!(%error, file = ?file, "what this replica has seen of the database cannot be read");
                None
            }
            None => None,
        };
        Ok(Self { file, line, kept: AtomicU64::new(record.map_or(0, |record| record.revision)) })
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(self.kept.load(Ordering::Acquire))
    }

    /// This was seen. Blocks for as long as the disk takes.
    pub(super) fn keep(&self, revision: Revision) {
        let Some(path) = self.file.as_ref().filter(|_| revision > self.revision()) else { return };
        let record = Record { line: self.line.clone(), revision: revision.0 };
        let written =
            serde_json::to_vec(&record).map_err(io::Error::from).and_then(|bytes| file::replace(path, &bytes));
        match written {
            Ok(()) => self.kept.store(revision.0, Ordering::Release),
            Err(error) => tracing::debug!(%error, "what this replica has seen could not be kept"),
        }
    }
}
