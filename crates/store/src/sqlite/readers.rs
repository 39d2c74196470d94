//! A few read-only connections for what memory does not hold, used on blocking threads.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::{database, schema};
use crate::error::StoreError;
use crate::lock;

/// See the module.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, count: usize) -> Self {
        Self { path, idle: Mutex::default(), permits: Arc::new(Semaphore::new(count.max(1))) }
    }

    /// Runs a read in one transaction, so that it sees one state.
    pub(super) async fn run<T: Send + 'static>(
        self: Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let work = move || {
            let _permit = permit;
            let idle = lock(&self.idle).pop();
            let mut connection = idle.map_or_else(|| self.open(), Ok)?;
            let outcome = {
                let snapshot = connection.transaction().map_err(database)?;
                read(&snapshot)
            };
            if !self.permits.is_closed() {
                lock(&self.idle).push(connection);
            }
            outcome
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed))
    }

    /// Refuses further reads.
    pub(super) fn close(&self) {
        self.permits.close();
        lock(&self.idle).clear();
    }

    fn open(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(database)?;
        connection.busy_timeout(Duration::from_secs(10)).map_err(database)?;
        connection.pragma_update(None, "cache_size", -1024).map_err(database)?;
        schema::steady_plans(&connection).map_err(database)?;
        Ok(connection)
    }
}
