//! Moves the state of a directory into PostgreSQL: uids, revisions and numbers stay what they are, and the next write has
//! the next revision.
//!
//! It is read at one moment, and written in one transaction, which nobody else can enter meanwhile. So until its last step
//! nothing has changed, whatever happens: the database is empty, and the directory is as it was. In the last step the
//! directory says that it may be left, the transaction is committed, with the migration's id in it, and the directory says
//! that it is left. One that is cut short between these is repeated: the id tells whether it was committed.
//!
//! What was before the current objects does not go along: a watch that resumes from below the revision at which the state was
//! moved gets "expired", and begins anew.

mod tables;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use mainstay_runtime::fault::{self, Point};
use mainstay_runtime::{Class, Classify, Reason};
use rusqlite::Connection;
use uuid::Uuid;

use crate::error::StoreError;
use crate::postgres::Address;
use crate::postgres::load::{Load, NotCommitted};
use crate::sqlite::backup::{Contents, Progress, StateError, contents};
use crate::sqlite::database;
use crate::sqlite::moved::{Leaving, Mark};
use tables::{TABLES, Table};

/// Rows between two words about progress.
const WORD: u64 = 1_024;

/// A state that is being moved. Dropped before it is finished, it stays where it was.
#[derive(Debug)]
pub struct Migration(Leaving);

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// What the database holds.
    pub contents: Contents,
    /// An earlier migration had done it already, and was cut short before it said so.
    pub repeated: bool,
}

/// A state was not moved, or it is not known whether it was.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The directory cannot be left.
    #[error(transparent)]
    State(#[from] StateError),
    /// The database cannot be filled. It is as empty as it was.
    #[error("{database} was not filled")]
    Database {
        /// Its name.
        database: String,
        /// Why not.
        source: StoreError,
    },
    /// The database has something in it.
    #[error("{database} is not empty: there is something in {}", found.join(", "))]
    NotEmpty {
        /// Its name.
        database: String,
        /// Names of tables.
        found: Vec<&'static str>,
    },
    /// An earlier migration, to another database, was cut short in its last step.
    #[error("an earlier migration to {database} was cut short in its last step, as {} says", file.display())]
    Elsewhere {
        /// That database.
        database: String,
        /// What is to be removed if it is gone.
        file: PathBuf,
    },
    /// There is no answer to the last step.
    #[error("{database} did not answer to the last step: whether it was carried out is not known")]
    Unknown {
        /// Its name.
        database: String,
        /// What is known.
        source: StoreError,
    },
}

impl Classify for MigrateError {
    fn class(&self) -> Class {
        match self {
            Self::State(error) => error.class(),
            Self::Database { source, .. } => source.class(),
            Self::NotEmpty { .. } => Class::Terminal(Reason::AlreadyExists),
            Self::Elsewhere { .. } => Class::Terminal(Reason::Unsupported),
            Self::Unknown { .. } => Class::Indeterminate,
        }
    }
}

impl Migration {
    /// Takes the directory: nobody else opens it until this is dropped.
    ///
    /// # Errors
    /// [`StateError::Missing`]; [`StoreError::Locked`] when a process uses the directory; [`StoreError::Moved`] when it was
    /// left before.
    pub fn begin(dir: &Path) -> Result<Self, StateError> {
        Ok(Self(Leaving::begin(dir)?))
    }

    /// Moves the state into a database that nobody has used, and marks the directory as left. Blocks meanwhile; `tell` hears of
    /// rows.
    ///
    /// # Errors
    /// [`MigrateError`]. All but [`MigrateError::Unknown`] leave database and directory as they were.
    pub fn run(self, address: &Address, tell: Progress<'_>) -> Result<Migrated, MigrateError> {
        let failed = |error: std::io::Error| MigrateError::Database {
            database: address.to_string(),
            source: StoreError::Database(std::sync::Arc::new(error)),
        };
        // The connection lives on a thread of its own: rows are read here, and sent there.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.map_err(failed)?.block_on(self.carry_out(address, tell))
    }

    async fn carry_out(self, address: &Address, tell: Progress<'_>) -> Result<Migrated, MigrateError> {
        let (leaving, name) = (self.0, address.to_string());
        let failed = |source| MigrateError::Database { database: name.clone(), source };
        let pending = leaving.pending()?;
        if let Some(mark) = pending.as_ref().filter(|mark| mark.database != name) {
            return Err(MigrateError::Elsewhere { database: mark.database.clone(), file: leaving.file() });
        }
        let mut contents = contents(leaving.connection()).map_err(StateError::from)?;
        let load = Load::begin(address).await.map_err(failed)?;
        if let Some(mark) = &pending
            && load.is_done(mark.id).await.map_err(failed)?
        {
            leaving.finish()?;
            return Ok(Migrated { contents, repeated: true });
        }
        let found = load.found().await.map_err(failed)?;
        if !found.is_empty() {
            return Err(MigrateError::NotEmpty { database: name, found });
        }
        for table in &TABLES {
            let filled = fill(leaving.connection(), &load, table, tell).await;
            let rows = filled.map_err(failed)?;
            if table.name == "messages" {
                // Those of sessions that were dropped stay behind.
                contents.messages = rows;
            }
        }
        let mark = Mark { database: name.clone(), id: Uuid::new_v4() };
        load.settle(contents.revision, mark.id).await.map_err(failed)?;
        leaving.mark(&mark)?;
        fault::hit(Point::StoreBeforeCommit).map_err(|error| failed(injected(error)))?;
        match load.commit().await {
            Ok(()) => {}
            Err(NotCommitted::Refused(source)) => {
                leaving.unmark()?;
                return Err(failed(source));
            }
            Err(NotCommitted::Unknown(source)) => return Err(MigrateError::Unknown { database: name, source }),
        }
        fault::hit(Point::StoreAfterCommit).ok();
        leaving.finish()?;
        Ok(Migrated { contents, repeated: false })
    }
}

/// Fills one table; gives how many rows it has.
async fn fill(state: &Connection, load: &Load, table: &Table, tell: Progress<'_>) -> Result<u64, StoreError> {
    let count = format!("SELECT count(*) FROM ({})", table.select);
    let all: u64 = state.query_row(&count, [], |row| row.get(0)).map_err(database)?;
    tell(table.name, 0, all);
    let mut select = state.prepare(table.select).map_err(database)?;
    let mut rows = select.query([]).map_err(database)?;
    let mut filled = load.rows(table.name, &table.columns(), &table.types()).await?;
    let mut done = 0;
    while let Some(row) = rows.next().map_err(database)? {
        filled.add(table.cells(row).map_err(database)?).await?;
        done += 1;
        if done % WORD == 0 {
            tell(table.name, done, all);
        }
    }
    let there = filled.finish().await?;
    tell(table.name, done, all);
    fault::hit(Point::StoreBeforeCommit).map_err(injected)?;
    if there == all { Ok(all) } else { Err(missing(table.name)) }
}

fn injected(error: fault::Injected) -> StoreError {
    StoreError::Database(std::sync::Arc::new(error))
}

fn missing(table: &str) -> StoreError {
    let why = format!("{table} has not as many rows as were sent");
    StoreError::Database(std::sync::Arc::new(std::io::Error::new(std::io::ErrorKind::InvalidData, why)))
}
