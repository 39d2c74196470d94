//! Tables and functions, their migrations, and how a process enters.

use std::sync::Arc;

use super::link::{Failure, Link};
use crate::error::StoreError;
use crate::object::Revision;

/// Each brings the schema from the version of its index to the next. Only ever append: replicas of the version before go on
/// with what they know, so what they call stays until the version after (expand, then contract).
const MIGRATIONS: &[&[&str]] = &[&[
    include_str!("sql/tables.sql"),
    include_str!("sql/queue.sql"),
    include_str!("sql/apply.sql"),
    include_str!("sql/enter.sql"),
    include_str!("sql/talk.sql"),
    include_str!("sql/leases.sql"),
    include_str!("sql/keyring.sql"),
    include_str!("sql/chores.sql"),
]];

/// The version that this program's tables have.
fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// Makes the tables, or brings them up to date. Of several processes that do so at once, one does.
pub(super) async fn prepare(link: &Link, span: u64) -> Result<(), StoreError> {
    // The statement's transaction holds the lock; each of these is one transaction.
    let first = "SELECT pg_advisory_xact_lock(hashtext('mainstay schema'));
        CREATE SCHEMA IF NOT EXISTS mainstay;
        CREATE TABLE IF NOT EXISTS mainstay.schema (version int NOT NULL);
        INSERT INTO mainstay.schema SELECT 0 WHERE NOT EXISTS (SELECT FROM mainstay.schema)";
    let found = version(link).await?;
    if found == 0 {
        link.run(first).await?;
    }
    if found > known() {
        return Err(StoreError::NewerSchema { found, known: known() });
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let begin =
            if index == 0 { format!("INSERT INTO log VALUES (1, 0, 0, 0, {span}, '', 0);") } else { String::new() };
        let (before, after) = (index, index + 1);
        // Whoever waited for the lock may find it done: then the division by zero undoes the rest.
        let whole = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtext('mainstay schema'));
             DO $do$ BEGIN IF (SELECT version FROM schema) <> {before} THEN
                RAISE EXCEPTION 'it was done already' USING ERRCODE = 'MS003'; END IF; END $do$;
             {}
             {begin} UPDATE schema SET version = {after}; COMMIT;",
            migration.join("\n")
        );
        match link.run(&whole).await {
            Err(failure) if failure.code().is_some_and(|code| code.code() == "MS003") => link.run("ROLLBACK").await?,
            Err(failure) => {
                link.run("ROLLBACK").await.ok();
                return Err(failure.into());
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

async fn version(link: &Link) -> Result<u32, StoreError> {
    let exists = "SELECT to_regclass('mainstay.schema') IS NOT NULL";
    if !link.one(exists, &[]).await?.get::<_, bool>(0) {
        return Ok(0);
    }
    let row = link.query("SELECT version FROM mainstay.schema", &[]).await?.pop();
    Ok(row.map_or(0, |row| row.get::<_, i32>(0).unsigned_abs()))
}

/// What a process finds when it enters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entered {
    /// The process's term: its writes carry it.
    pub(super) term: i64,
    pub(super) revision: Revision,
    /// An epoch has begun with this.
    pub(super) began: bool,
}

/// Enters under the replica's name: for the first time (`term` is `None`), or again after the connection was lost.
pub(super) async fn enter(link: &Link, replica: &str, term: Option<i64>, seen: Revision) -> Result<Entered, Failure> {
    let sql = "SELECT term, revision, began FROM mainstay.enter_1($1, $2, $3)";
    let row = link.one(sql, &[&replica, &term, &seen.0.cast_signed()]).await?;
    Ok(Entered { term: row.get(0), revision: Revision(row.get::<_, i64>(1).cast_unsigned()), began: row.get(2) })
}

/// Another process has entered under this one's name.
pub(super) fn is_replaced(failure: &Failure) -> bool {
    failure.code().is_some_and(|code| code.code() == "MS001")
}

/// The error of something that the database says and that cannot be.
pub(super) fn diverged(what: &'static str) -> StoreError {
    StoreError::Database(Arc::new(std::io::Error::new(std::io::ErrorKind::InvalidData, what)))
}
