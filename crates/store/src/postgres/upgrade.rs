//! Which schema a database has, who works with it, and its contraction.
//!
//! Expanding is done by the first program that knows a step, when it starts. Contracting is not done by itself: as long as it
//! is not done, an upgrade can be taken back by starting the program of before, and only people know when that is not
//! wanted any more. It is refused while a replica is there that knows too little; one that is not there, and comes back,
//! is refused then: its term is over, and it cannot enter.

use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::{Class, Classify, Tasks};

use super::Address;
use super::link::Link;
use super::schema::{self, Found, GATE, Step};
use crate::error::StoreError;

/// The schema of a database, and who works with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Its version; 0 when there is none.
    pub version: u32,
    /// What a program has to know at least to work with it.
    pub oldest: u32,
    /// What this program knows.
    pub known: u32,
    /// Who has entered within 30 days, by name.
    pub replicas: Vec<Replica>,
}

/// One that shares the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its name.
    pub name: String,
    /// The version that its program knows.
    pub knows: u32,
    /// Since when it was not heard of.
    pub silent: Duration,
    /// Whether it is at work.
    pub there: bool,
}

/// The schema was not contracted, and is as it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ContractError {
    /// Some who are there know too little.
    #[error("{} of an older version {} at work", names.join(", "), if names.len() == 1 { "is" } else { "are" })]
    Older {
        /// Who.
        names: Vec<String>,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Classify for ContractError {
    fn class(&self) -> Class {
        match self {
            Self::Older { .. } => Class::TRANSIENT,
            Self::Store(error) => error.class(),
        }
    }
}

/// Looks at a database; `further` is as in [`Options`](super::Options). Blocks meanwhile, and changes nothing.
///
/// # Errors
/// [`StoreError::Away`] and [`StoreError::Database`].
pub fn look(address: &Address, further: Option<&Step>) -> Result<Schema, StoreError> {
    on(address, |link| async move { schema_of(&link, &schema::steps(further)).await })
}

/// Takes away what only programs used that know less than this one, as far as the schema was expanded, and refuses them from
/// then on. Again is harmless. Blocks meanwhile.
///
/// # Errors
/// [`ContractError`]; then nothing has changed.
pub fn contract(address: &Address, further: Option<&Step>) -> Result<Schema, ContractError> {
    on(address, |link| async move {
        let steps = schema::steps(further);
        let Schema { version, oldest, known, .. } = schema_of(&link, &steps).await?;
        let target = version.min(known);
        if oldest < target {
            let away = steps.iter().take(target as usize).skip(oldest as usize).map(|step| &*step.contract);
            let away = away.collect::<Vec<_>>().join("\n");
            let holds = format!(
                "(SELECT oldest FROM schema) = {oldest}
                 AND NOT EXISTS (SELECT FROM replicas_2() WHERE there AND knows < {target})"
            );
            // One that stands still, and is not known to be there, is refused when it goes on.
            let change = format!(
                "{GATE} UPDATE replicas SET term = term + 1 WHERE knows < {target};
                 {away} UPDATE schema SET oldest = {target};"
            );
            schema::change_schema(&link, &holds, &change).await?;
        }
        let schema = schema_of(&link, &steps).await?;
        let older = |replica: &&Replica| replica.there && replica.knows < target;
        let names: Vec<String> = schema.replicas.iter().filter(older).map(|replica| replica.name.clone()).collect();
        if schema.oldest < target { Err(ContractError::Older { names }) } else { Ok(schema) }
    })
}

async fn schema_of(link: &Link, steps: &[Step]) -> Result<Schema, StoreError> {
    let (Found { version, oldest }, known) = (Found::read(link).await?, schema::version_of(steps));
    let rows = match version {
        // Before there were two versions nobody was to be told apart.
        0 | 1 => Vec::new(),
        _ => link.query("SELECT name, knows, silent_ms, there FROM mainstay.replicas_2()", &[]).await?,
    };
    let replica = |row: &tokio_postgres::Row| Replica {
        name: row.get(0),
        knows: row.get::<_, i32>(1).unsigned_abs(),
        silent: Duration::from_millis(row.get::<_, i64>(2).max(0).unsigned_abs()),
        there: row.get(3),
    };
    Ok(Schema { version, oldest, known, replicas: rows.iter().map(replica).collect() })
}

/// One connection, for as long as the work takes.
fn on<T, E: From<StoreError>, F: Future<Output = Result<T, E>>>(
    address: &Address,
    work: impl FnOnce(Link) -> F,
) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| StoreError::Database(Arc::new(error)))?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        work(Link::new(address, "mainstay-schema".to_owned(), &tasks, None)).await
    })
}
