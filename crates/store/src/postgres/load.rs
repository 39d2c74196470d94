//! Fills a database that is empty, in one transaction: all of it or nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::Tasks;
use tokio::time::timeout;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::link::{Failure, Link, Session, failure};
use super::{Address, Options, schema};
use crate::error::StoreError;
use crate::object::Revision;

/// How long the server may take for any one thing; a row that it does not take is one.
const STEP: Duration = Duration::from_mins(2);
/// What a database that was used has something in.
const TABLES: [&str; 12] = [
    "objects",
    "history",
    "kept",
    "counters",
    "leases",
    "replicas",
    "sessions",
    "messages",
    "operations",
    "steps",
    "lanes",
    "keyring",
];
/// Nobody enters before the transaction ends; and it ends when this process does.
const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '5min';
    SELECT FROM mainstay.log FOR UPDATE";

/// A column's value.
pub(crate) type Cell<'v> = Box<dyn ToSql + Sync + 'v>;

/// A database that is being filled. Dropped before its commit, nothing of it stays.
#[derive(Debug)]
pub(crate) struct Load {
    session: Arc<Session>,
    _tasks: Tasks,
}

/// There is no answer that says that it was committed.
#[derive(Debug)]
pub(crate) enum NotCommitted {
    /// It was not.
    Refused(StoreError),
    /// It may have been.
    Unknown(StoreError),
}

/// A table that is being filled.
pub(crate) struct Rows(Pin<Box<BinaryCopyInWriter>>);

impl Load {
    /// Makes or updates the tables, and keeps everybody else from entering.
    ///
    /// # Errors
    /// As for [`PostgresStore::open`](super::PostgresStore::open).
    pub(crate) async fn begin(address: &Address) -> Result<Self, StoreError> {
        let tasks = Tasks::new();
        let link = Link::new(address, "mainstay-migrate".to_owned(), &tasks, None);
        schema::prepare(&link, Options::new(address.clone(), "").span, &schema::steps(None)).await?;
        let load = Self { session: link.session().await?, _tasks: tasks };
        load.run(BEGIN).await?;
        Ok(load)
    }

    /// What there is, by name; nothing when nobody ever used it.
    pub(crate) async fn found(&self) -> Result<Vec<&'static str>, StoreError> {
        let mut found = Vec::new();
        if self.is("SELECT revision > 0 OR place <> '' FROM mainstay.log").await? {
            found.push("log");
        }
        for table in TABLES {
            if self.is(&format!("SELECT EXISTS (SELECT FROM mainstay.{table})")).await? {
                found.push(table);
            }
        }
        Ok(found)
    }

    /// Whether this load was committed before.
    pub(crate) async fn is_done(&self, id: Uuid) -> Result<bool, StoreError> {
        self.is(&format!("SELECT EXISTS (SELECT FROM mainstay.counters WHERE name = 'migrated/{id}')")).await
    }

    /// Begins to fill a table's columns.
    pub(crate) async fn rows(&self, table: &str, columns: &str, types: &[Type]) -> Result<Rows, StoreError> {
        let copy = format!("COPY mainstay.{table} ({columns}) FROM STDIN (FORMAT binary)");
        let sink = bounded(self.session.client().copy_in(&copy)).await?;
        Ok(Rows(Box::pin(BinaryCopyInWriter::new(sink, types))))
    }

    /// The newest revision is this one, and what is given from now on is above all that was.
    pub(crate) async fn settle(&self, revision: Revision, id: Uuid) -> Result<(), StoreError> {
        let settle = format!(
            "UPDATE mainstay.log SET revision = {revision}, floor = {revision}, top = {revision};
             SELECT setval(pg_get_serial_sequence('mainstay.sessions', 'key'), max(key)) FROM mainstay.sessions;
             SELECT setval('mainstay.turns', max(turn)) FROM mainstay.lanes;
             INSERT INTO mainstay.counters VALUES ('migrated/{id}', 1)"
        );
        self.run(&settle).await?;
        let analyze = TABLES.map(|table| format!("mainstay.{table}")).join(", ");
        Ok(self.run(&format!("ANALYZE {analyze}")).await?)
    }

    pub(crate) async fn commit(self) -> Result<(), NotCommitted> {
        self.run("COMMIT").await.map_err(|failure| match failure {
            Failure::Unknown(_) => NotCommitted::Unknown(failure.into()),
            Failure::Away(_) | Failure::Refused(_) => NotCommitted::Refused(failure.into()),
        })
    }

    async fn is(&self, query: &str) -> Result<bool, StoreError> {
        Ok(bounded(self.session.client().query_one(query, &[])).await?.get(0))
    }

    async fn run(&self, statements: &str) -> Result<(), Failure> {
        bounded(self.session.client().batch_execute(statements)).await
    }
}

impl Rows {
    /// Adds one.
    pub(crate) async fn add(&mut self, cells: Vec<Cell<'_>>) -> Result<(), StoreError> {
        Ok(bounded(self.0.as_mut().write_raw(cells)).await?)
    }

    /// Gives how many the server has.
    pub(crate) async fn finish(mut self) -> Result<u64, StoreError> {
        Ok(bounded(self.0.as_mut().finish()).await?)
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").finish_non_exhaustive()
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failure> {
    match timeout(STEP, work).await {
        Ok(outcome) => outcome.map_err(failure),
        Err(_) => Err(Failure::Unknown(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))),
    }
}
