//! Tables, their migrations, and opening.

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Row};

use super::{Options, database};
use crate::error::StoreError;
use crate::hub::Objects;
use crate::object::{Key, Meta, Object, Revision};
use crate::operation::OPERATIONS;

/// Each brings the schema from the version of its index to the next. Only ever append.
const MIGRATIONS: &[&str] = &["
    -- One row: the newest revision, and the compaction floor.
    CREATE TABLE log (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL, floor INTEGER NOT NULL);
    INSERT INTO log VALUES (1, 0, 0);

    -- Every retained change. The newest row of a key that is not a deletion holds the current object's content, so that
    -- no content is written twice. kind: 0 created, 1 updated, 2 deleted.
    CREATE TABLE history (
        revision INTEGER PRIMARY KEY, resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        kind INTEGER NOT NULL, meta TEXT NOT NULL, body BLOB NOT NULL);
    CREATE INDEX history_of_key ON history (resource, namespace, name, revision);

    -- The current objects: which row of the history each is.
    CREATE TABLE objects (
        resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL,
        PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID;

    -- A session's messages are numbered to `last`; those before `first` are gone for readers, those before `purged`
    -- from the disk. A dropped session keeps its row until its messages are deleted.
    CREATE TABLE sessions (
        key INTEGER PRIMARY KEY, session TEXT NOT NULL, dropped INTEGER NOT NULL DEFAULT 0,
        first INTEGER NOT NULL DEFAULT 1, last INTEGER NOT NULL DEFAULT 0, purged INTEGER NOT NULL DEFAULT 1, row TEXT);
    CREATE UNIQUE INDEX session_by_uid ON sessions (session) WHERE dropped = 0;
    CREATE INDEX session_with_chore ON sessions (key) WHERE dropped = 1 OR purged < first;

    -- place: the session's key times 2^32, plus the number. A trimmed message keeps its id for a while, without body.
    CREATE TABLE messages (place INTEGER PRIMARY KEY, session INTEGER NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL, body BLOB);
    CREATE UNIQUE INDEX message_by_id ON messages (session, id);

    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
", "
    -- bytes: of the bodies from `first` to `last`.
    ALTER TABLE sessions ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE sessions SET bytes = (SELECT ifnull(sum(length(body)), 0) FROM messages
        WHERE place >= (key << 32) + first AND place < (key + 1) << 32) WHERE dropped = 0;

    -- sender: whose name space the id is in. 0 agent, 1 user, 2 platform, which has only ever sent a session's prompt.
    ALTER TABLE messages ADD COLUMN sender INTEGER NOT NULL DEFAULT 0;
    UPDATE messages SET sender = CASE id WHEN 'prompt-1' THEN 2 ELSE 1 END WHERE kind = 'user';
    DROP INDEX message_by_id;
    CREATE UNIQUE INDEX message_by_id ON messages (session, sender, id);
", "
    -- A row beside each operation's object. state: 0 ready, 1 delayed, 2 blocked, 3 running, 4 succeeded, 5 cancelled,
    -- 6 dead. created, run_at, started: milliseconds since 1970. undoing, history: JSON.
    CREATE TABLE operations (
        seq INTEGER PRIMARY KEY, uid TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, lane TEXT NOT NULL,
        handler TEXT NOT NULL, priority INTEGER NOT NULL, key TEXT, created INTEGER NOT NULL, state INTEGER NOT NULL,
        run_at INTEGER NOT NULL, cancelled INTEGER NOT NULL, replays INTEGER NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0,
        started INTEGER NOT NULL DEFAULT 0, undoing TEXT, history TEXT NOT NULL DEFAULT '[]');
    CREATE UNIQUE INDEX operation_by_uid ON operations (uid);
    CREATE INDEX operation_ready ON operations (lane, priority DESC, seq) WHERE state = 0;
    CREATE INDEX operation_due ON operations (run_at, seq) WHERE state = 1;
    CREATE INDEX operation_blocked ON operations (lane, key, priority DESC, seq) WHERE state = 2;
    CREATE INDEX operation_live ON operations (state, seq) WHERE state IN (0, 3);
    -- Of one key only one is ready or running.
    CREATE UNIQUE INDEX operation_of_key ON operations (lane, key) WHERE state IN (0, 3) AND key IS NOT NULL;

    -- The journals. state: 0 intent, 1 done, 2 undoing, 3 undone. place: which entry was the first of its step, from 0.
    CREATE TABLE steps (
        operation INTEGER NOT NULL, step TEXT NOT NULL, place INTEGER NOT NULL, state INTEGER NOT NULL,
        attempt INTEGER NOT NULL, output TEXT NOT NULL, PRIMARY KEY (operation, step)) WITHOUT ROWID;

    -- How many operations of a lane are in which state, and when it had its turn, or began to wait for one.
    CREATE TABLE lanes (
        lane TEXT PRIMARY KEY, ready INTEGER NOT NULL, delayed INTEGER NOT NULL, blocked INTEGER NOT NULL,
        running INTEGER NOT NULL, dead INTEGER NOT NULL, turn INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX lane_turn ON lanes (running, turn) WHERE ready > 0;
", "
    -- ready: since when it can be claimed, in milliseconds since 1970; 0 when that is not known.
    ALTER TABLE operations ADD COLUMN ready INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX operation_dead ON operations (state, seq) WHERE state = 6;
", "
    -- Versions of keys, wrapped. Its generation is a counter. created: milliseconds since 1970.
    CREATE TABLE keyring (
        name TEXT NOT NULL, version INTEGER NOT NULL, wrapped BLOB NOT NULL, created INTEGER NOT NULL,
        PRIMARY KEY (name, version)) WITHOUT ROWID;
"];

/// The version that this program's tables have.
pub(super) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// The writing connection, with the schema brought up to date.
pub(super) fn open(path: &Path, options: &Options) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(database)?;
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(database)?;
    if version > known() {
        return Err(StoreError::NewerSchema { found: version, oldest: version, known: known() });
    }
    prepare(&connection, options, version == 0).map_err(database)?;
    migrate(&mut connection, version).map_err(database)?;
    Ok(connection)
}

fn prepare(connection: &Connection, options: &Options, fresh: bool) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    if fresh {
        // It stays, and saying it again is a write, for which a full disk has no room.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", i64::from(options.checkpoint_pages) * 4096 * 4)?;
    connection.pragma_update(None, "cache_size", -8192)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    if let Some(pages) = options.max_pages {
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    steady_plans(connection)
}

/// Statements are planned once, by what they say. (Else SQLite plans some of them anew whenever a parameter is bound.)
pub(super) fn steady_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(128);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn migrate(connection: &mut Connection, version: u32) -> rusqlite::Result<()> {
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(version as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", index + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// The current objects that are kept in memory, at the newest revision, and the floor.
pub(super) fn load(connection: &Connection) -> Result<(Objects, Revision), StoreError> {
    let log = "SELECT revision, floor FROM log";
    let (revision, floor): (u64, u64) =
        connection.query_row(log, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(database)?;
    let mut objects = Objects::at(Revision(revision));
    // Two ranges of the key: a million operations between them cost nothing.
    for others in ["o.resource < ?1", "o.resource > ?1"] {
        let select = format!(
            "SELECT h.revision, h.resource, h.namespace, h.name, h.meta, h.body
             FROM objects o JOIN history h ON h.revision = o.revision WHERE {others}"
        );
        let mut statement = connection.prepare(&select).map_err(database)?;
        let mut rows = statement.query([OPERATIONS]).map_err(database)?;
        while let Some(row) = rows.next().map_err(database)? {
            let mut object = object(row).map_err(database)?;
            object.key = objects.intern(&object.key);
            objects.load(Arc::new(object));
        }
    }
    Ok((objects, Revision(floor)))
}

/// An object from the columns revision, resource, namespace, name, meta, body.
pub(super) fn object(row: &Row<'_>) -> rusqlite::Result<Object> {
    let text = |column: usize| row.get_ref(column)?.as_str().map(Arc::<str>::from).map_err(rusqlite::Error::from);
    let key = Key { resource: text(1)?, namespace: text(2)?, name: text(3)? };
    let body = Bytes::copy_from_slice(row.get_ref(5)?.as_blob()?);
    Ok(Object { key, revision: Revision(row.get(0)?), meta: meta(row, 4)?, body })
}

/// The selectable parts in a column.
pub(super) fn meta(row: &Row<'_>, column: usize) -> rusqlite::Result<Arc<Meta>> {
    let failed =
        |error| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error));
    serde_json::from_str(row.get_ref(column)?.as_str()?).map(Arc::new).map_err(failed)
}
