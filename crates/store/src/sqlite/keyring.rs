//! The ring of keys on SQLite: a table, and a copy in memory, which is right because one process has the directory.

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::watch;

use super::backup::{StateError, look, version};
use super::jobs::Failed;
use super::turn::Turn;
use super::{SqliteStore, at_most, database, refuse};
use crate::error::StoreError;
use crate::keyring::{KeyRow, Keyring, MAX_WRAPPED, Ring, RingChange};
use crate::lock;

/// The schema that brought the table.
const SINCE: u32 = 5;
/// The counter that is the ring's generation: it is raised above an epoch's beginning as all counters are.
const GENERATION: &str = "store/keyring";

/// The ring as it was committed last.
#[derive(Debug)]
pub(super) struct Committed {
    ring: Mutex<Arc<Ring>>,
    changes: watch::Sender<u64>,
}

impl Committed {
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let ring = read(connection)?;
        let changes = watch::Sender::new(ring.generation);
        Ok(Self { ring: Mutex::new(Arc::new(ring)), changes })
    }

    pub(super) fn publish(&self, ring: Ring) {
        let generation = ring.generation;
        *lock(&self.ring) = Arc::new(ring);
        self.changes.send_replace(generation);
    }
}

fn read(connection: &Connection) -> rusqlite::Result<Ring> {
    let generation = connection
        .prepare_cached("SELECT value FROM counters WHERE name = ?1")?
        .query_row([GENERATION], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    let select = "SELECT name, version, wrapped, created FROM keyring ORDER BY name, version";
    let mut select = connection.prepare_cached(select)?;
    let row = |row: &rusqlite::Row<'_>| {
        let wrapped = Bytes::copy_from_slice(row.get_ref(2)?.as_blob()?);
        Ok(KeyRow { name: row.get(0)?, version: row.get(1)?, wrapped, created_ms: row.get(3)? })
    };
    let rows = select.query_map([], row)?.collect::<rusqlite::Result<_>>()?;
    Ok(Ring { generation, rows })
}

/// The ring in a directory, at this moment, whether or not a process has it open; empty before there was one.
///
/// # Errors
/// [`StateError::Missing`], [`StateError::Unfinished`], [`StoreError::NewerSchema`], or what the database said.
pub fn look_at_ring(dir: &Path) -> Result<Ring, StateError> {
    let mut connection = look(dir)?;
    if version(&connection)? < SINCE {
        return Ok(Ring::default());
    }
    let moment = connection.transaction().map_err(database)?;
    Ok(read(&moment).map_err(database)?)
}

impl Turn<'_> {
    pub(super) fn change_ring(&mut self, change: &RingChange) -> Result<Option<u64>, Failed> {
        let connection = self.connection();
        if read(connection)?.generation != change.generation {
            return Ok(None);
        }
        let mut remove = connection.prepare_cached("DELETE FROM keyring WHERE name = ?1 AND version = ?2")?;
        for (name, version) in &change.remove {
            remove.execute(params![name, version])?;
        }
        let mut add = connection.prepare_cached("INSERT OR REPLACE INTO keyring VALUES (?1, ?2, ?3, ?4)")?;
        for row in &change.add {
            add.execute(params![row.name, row.version, &row.wrapped[..], row.created_ms])?;
        }
        let generation = self.raise(GENERATION)?;
        self.ring = Some(read(connection)?);
        Ok(Some(generation))
    }
}

impl Keyring for SqliteStore {
    fn ring(&self) -> BoxFuture<'_, Result<Ring, StoreError>> {
        let ring = self.health.open().map(|()| Arc::unwrap_or_clone(Arc::clone(&lock(&self.keyring.ring))));
        std::future::ready(ring).boxed()
    }

    fn change_ring(&self, change: RingChange) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        let largest = change.add.iter().map(|row| row.wrapped.len()).max().unwrap_or(0);
        if let Err(error) = at_most(largest, MAX_WRAPPED) {
            return refuse(error);
        }
        self.submit(0, move |turn| turn.change_ring(&change))
    }

    fn ring_changes(&self) -> watch::Receiver<u64> {
        self.keyring.changes.subscribe()
    }
}
