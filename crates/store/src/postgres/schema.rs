//! Tables and functions, their migrations, and how a process enters.

use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::guard;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

use super::link::{Failure, Link, Parameters};
use crate::error::StoreError;
use crate::object::Revision;

/// A step of the schema: from the version of its place to the next.
///
/// The first program that knows it *expands*: it adds, under a lock, in one transaction that is short. Programs that do not
/// know it go on meanwhile and afterwards, and may be started again: what they call stays as they know it, and what they
/// write is what the newer ones read (a new column may be null: functions of before may fill it with nothing). When none of them is left, and none is to come back, somebody says that the schema is
/// to be *contracted* ([`upgrade`](super::upgrade)): what only they used goes, and they are refused from then on.
#[derive(Debug, Clone)]
pub struct Step {
    /// What is added.
    pub expand: Arc<str>,
    /// What is taken away.
    pub contract: Arc<str>,
}

/// All steps, each as what it adds, in parts, and what it takes away. Only ever append.
const STEPS: &[(&[&str], &str)] = &[
    (
        &[
            include_str!("sql/tables.sql"),
            include_str!("sql/queue.sql"),
            include_str!("sql/apply.sql"),
            include_str!("sql/enter.sql"),
            include_str!("sql/talk.sql"),
            include_str!("sql/leases.sql"),
            include_str!("sql/keyring.sql"),
            include_str!("sql/chores.sql"),
        ],
        "",
    ),
    (&[include_str!("sql/upgrade.sql")], ""),
];

/// How long a step waits for those who use what it changes, before it lets them pass and tries again.
const TURN: &str = "1s";
/// For how long it tries.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// The steps that a program knows: its own, and what a drill adds.
pub(super) fn steps(further: Option<&Step>) -> Vec<Step> {
    let expand = |parts: &[&str]| guard::in_sql(parts.join("\n")).into();
    let own = STEPS.iter().map(|(parts, contract)| Step { expand: expand(parts), contract: (*contract).into() });
    own.chain(further.cloned()).collect()
}

/// The version that tables have of which a program knows these steps.
pub(super) fn version_of(steps: &[Step]) -> u32 {
    u32::try_from(steps.len()).unwrap_or(u32::MAX)
}

/// Which schema a database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// 0 when there is none.
    pub(super) version: u32,
    /// What a program has to know at least.
    pub(super) oldest: u32,
}

impl Found {
    pub(super) async fn read(link: &Link) -> Result<Self, StoreError> {
        let exists = "SELECT to_regclass('mainstay.schema') IS NOT NULL";
        if !link.one(exists, &[]).await?.get::<_, bool>(0) {
            return Ok(Self { version: 0, oldest: 0 });
        }
        // The first version said nothing about older ones: there was none.
        let select = "SELECT version, coalesce((to_jsonb(s) ->> 'oldest')::int, version) FROM mainstay.schema s";
        let row = link.query(select, &[]).await?.pop();
        let number = |at: usize| row.as_ref().map_or(0, |row| row.get::<_, i32>(at).unsigned_abs());
        Ok(Self { version: number(0), oldest: number(1) })
    }
}

/// Makes the tables, or brings them up to date. Of several processes that do so at once, one does. A schema that is newer
/// than the program, and can be worked with, stays as it is.
pub(super) async fn prepare(link: &Link, span: u64, steps: &[Step]) -> Result<(), StoreError> {
    // The statement's transaction holds the lock; each of these is one transaction.
    let first = "SELECT pg_advisory_xact_lock(hashtext('mainstay schema'));
        CREATE SCHEMA IF NOT EXISTS mainstay;
        CREATE TABLE IF NOT EXISTS mainstay.schema (version int NOT NULL);
        INSERT INTO mainstay.schema SELECT 0 WHERE NOT EXISTS (SELECT FROM mainstay.schema)";
    let (found, known) = (Found::read(link).await?, version_of(steps));
    if found.version == 0 {
        link.run(first).await?;
    }
    if found.oldest > known {
        return Err(StoreError::NewerSchema { found: found.version, oldest: found.oldest, known });
    }
    if found.version > known {
        tracing::info!(schema = found.version, known, "the schema is newer than this program, which can work with it");
    }
    for (index, step) in steps.iter().enumerate().skip(found.version as usize) {
        let (before, after) = (index, index + 1);
        let (gate, begin) = match index {
            0 => ("", format!("INSERT INTO log VALUES (1, 0, 0, 0, {span}, '', 0);")),
            _ => (GATE, String::new()),
        };
        let change = format!("{gate} {} {begin} UPDATE schema SET version = {after};", step.expand);
        // Whoever waited for the lock may find it done.
        let is_due = format!("(SELECT version FROM schema) = {before}");
        if change_schema(link, &is_due, &change).await? {
            tracing::info!(schema = after, "the schema is expanded");
        }
    }
    Ok(())
}

/// All writers pass here first: who has it waits for nobody who waits for them.
pub(super) const GATE: &str = "LOCK TABLE log IN ACCESS EXCLUSIVE MODE;";

/// Changes the schema in one transaction, under its lock, if something holds; tells whether it did.
///
/// Nobody waits for long: a change that cannot have its locks lets everybody pass who waits behind it, and is tried again.
pub(super) async fn change_schema(link: &Link, holds: &str, change: &str) -> Result<bool, StoreError> {
    let whole = format!(
        "BEGIN; SET LOCAL lock_timeout = '{TURN}'; SET LOCAL search_path = mainstay, pg_temp; SELECT pg_advisory_xact_lock(hashtext('mainstay schema'));
         DO $do$ BEGIN IF NOT ({holds}) THEN RAISE EXCEPTION 'it does not hold' USING ERRCODE = 'MS003'; END IF; END $do$;
         {change} COMMIT;"
    );
    let until = Instant::now() + PATIENCE;
    loop {
        let Err(failure) = link.run(&whole).await else { return Ok(true) };
        link.run("ROLLBACK").await.ok();
        match failure.code().cloned() {
            Some(code) if code.code() == "MS003" => return Ok(false),
            Some(SqlState::LOCK_NOT_AVAILABLE | SqlState::T_R_DEADLOCK_DETECTED) if Instant::now() < until => {
                sleep(PAUSE).await;
            }
            _ => return Err(failure.into()),
        }
    }
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
/// The process's program knows the schema's version `knows`.
pub(super) async fn enter(
    link: &Link,
    (replica, knows): (&str, u32),
    term: Option<i64>,
    seen: Revision,
) -> Result<Entered, Failure> {
    let sql = "SELECT term, revision, began FROM mainstay.enter_2($1, $2, $3, $4)";
    let parameters: Parameters<'_> = &[&replica, &term, &seen.0.cast_signed(), &knows.cast_signed()];
    // The first one of an epoch copies all that is current, and the others wait for it.
    let row = link.one_at_leisure(sql, parameters).await?;
    Ok(Entered { term: row.get(0), revision: Revision(row.get::<_, i64>(1).cast_unsigned()), began: row.get(2) })
}

/// Another process has entered under this one's name.
pub(super) fn is_replaced(failure: &Failure) -> bool {
    failure.code().is_some_and(|code| code.code() == "MS001")
}

/// The database is another one than was entered, or an earlier state of it: it is to be entered again.
pub(super) fn has_moved(failure: &Failure) -> bool {
    failure.code().is_some_and(|code| code.code() == "MS005")
}

/// The schema was contracted, and what this program knows is too little.
pub(super) fn is_outdated(failure: &Failure) -> bool {
    failure.code().is_some_and(|code| code.code() == "MS004")
}

/// The error of something that the database says and that cannot be.
pub(super) fn diverged(what: &'static str) -> StoreError {
    StoreError::Database(Arc::new(std::io::Error::new(std::io::ErrorKind::InvalidData, what)))
}
