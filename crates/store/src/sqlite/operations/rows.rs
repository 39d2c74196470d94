//! Rows and journals in SQL.

use std::sync::Arc;

use mainstay_runtime::guard::Guard;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use serde::de::DeserializeOwned;

use crate::object::Key;
use crate::operation::{DeadLetter, Note, OPERATIONS, Queued, Row, Standing, State, StepRow, StepState};

/// A row with what the queue alone needs.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) seq: i64,
    pub(super) uid: Arc<str>,
    pub(super) object: Key,
    pub(super) lane: Arc<str>,
    pub(super) key: Option<Arc<str>>,
    pub(super) replays: u32,
    /// Since when it can be claimed, in milliseconds since 1970.
    pub(super) ready_ms: i64,
    pub(super) row: Row,
}

const COLUMNS: &str = "seq, uid, namespace, name, lane, key, replays, state, attempt, failures, lost, started, run_at,
    cancelled, undoing, history, ready";

/// The row of an operation.
pub(super) fn find(connection: &Connection, uid: &str) -> rusqlite::Result<Option<Entry>> {
    let select = format!("SELECT {COLUMNS} FROM operations WHERE uid = ?1");
    connection.prepare_cached(&select)?.query_row([uid], entry).optional()
}

/// Those of a lane that can be claimed, the highest priority first, then the oldest.
pub(super) fn ready(connection: &Connection, lane: &str, limit: usize) -> rusqlite::Result<Vec<Entry>> {
    let select =
        format!("SELECT {COLUMNS} FROM operations WHERE lane = ?1 AND state = 0 ORDER BY priority DESC, seq LIMIT ?2");
    connection.prepare_cached(&select)?.query_map(params![lane, limit], entry)?.collect()
}

/// Those that are due, the longest first.
pub(super) fn due(connection: &Connection, now_ms: i64, limit: usize) -> rusqlite::Result<Vec<Entry>> {
    let select =
        format!("SELECT {COLUMNS} FROM operations WHERE state = 1 AND run_at <= ?1 ORDER BY run_at, seq LIMIT ?2");
    connection.prepare_cached(&select)?.query_map(params![now_ms, limit], entry)?.collect()
}

/// Those that were begun and wait are due at this time at the latest.
pub(super) fn due_by(connection: &Connection, latest_ms: i64) -> rusqlite::Result<()> {
    let update = "UPDATE operations SET run_at = ?1 WHERE state = 1 AND run_at > ?1 AND attempt > 0";
    connection.execute(update, [latest_ms]).map(drop)
}

/// Those that were begun and wait are due so much sooner.
pub(super) fn sooner(connection: &Connection, by_ms: i64) -> rusqlite::Result<()> {
    let update = "UPDATE operations SET run_at = run_at - ?1 WHERE state = 1 AND attempt > 0";
    connection.execute(update, [by_ms]).map(drop)
}

/// When the next of those that wait for their time is due.
pub(super) fn next_due(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let select = "SELECT run_at FROM operations WHERE state = 1 ORDER BY run_at, seq LIMIT 1";
    connection.prepare_cached(select)?.query_row([], |row| row.get(0)).optional()
}

/// Who is next of those that wait for the entry's key.
pub(super) fn next_blocked(connection: &Connection, entry: &Entry) -> rusqlite::Result<Option<Entry>> {
    let Some(key) = &entry.key else { return Ok(None) };
    let select = format!(
        "SELECT {COLUMNS} FROM operations WHERE lane = ?1 AND key = ?2 AND state = 2 ORDER BY priority DESC, seq LIMIT 1"
    );
    connection.prepare_cached(&select)?.query_row(params![entry.lane, key], self::entry).optional()
}

/// The dead letters that were created last.
pub(super) fn dead(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<DeadLetter>> {
    let select = "SELECT namespace, name, lane, handler FROM operations WHERE state = 6 ORDER BY seq DESC LIMIT ?1";
    let letter = |row: &SqlRow<'_>| {
        let key = Key { resource: OPERATIONS.into(), namespace: row.get(0)?, name: row.get(1)? };
        Ok(DeadLetter { key, lane: row.get(2)?, handler: row.get(3)? })
    };
    connection.prepare_cached(select)?.query_map([limit], letter)?.collect()
}

/// Since when the longest of those that can be claimed could be, among the 1,000 that were created first.
pub(super) fn ready_since(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let select = "SELECT min(ready) FROM (SELECT ready FROM operations
                  WHERE state = 0 AND state IN (0, 3) ORDER BY seq LIMIT 1000) WHERE ready > 0";
    connection.prepare_cached(select)?.query_row([], |row| row.get(0))
}

/// Whether another has the entry's key.
pub(super) fn is_key_taken(connection: &Connection, entry: &Entry) -> rusqlite::Result<bool> {
    let Some(key) = entry.key.as_ref().filter(|_| Guard::ConcurrencyKey.holds()) else { return Ok(false) };
    let select = "SELECT 1 FROM operations
                  WHERE lane = ?1 AND key = ?2 AND state IN (0, 3) AND key IS NOT NULL AND seq <> ?3";
    connection.prepare_cached(select)?.exists(params![entry.lane, key, entry.seq])
}

/// Adds a row in a state; gives its place in the queue.
pub(super) fn insert(connection: &Connection, entry: &Entry, queued: &Queued) -> rusqlite::Result<i64> {
    let insert = "INSERT INTO operations (uid, namespace, name, lane, handler, priority, key, created, state, run_at,
                      cancelled, replays, ready) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    connection.prepare_cached(insert)?.execute(params![
        entry.uid,
        entry.object.namespace,
        entry.object.name,
        entry.lane,
        queued.handler,
        queued.priority,
        entry.key,
        queued.created_ms,
        code(entry.row.state),
        entry.row.run_at_ms,
        entry.row.cancelled,
        entry.replays,
        entry.ready_ms,
    ])?;
    Ok(connection.last_insert_rowid())
}

/// Stores all of a row that may change.
pub(super) fn save(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let update = "UPDATE operations SET state = ?2, key = ?3, run_at = ?4, cancelled = ?5, replays = ?6, attempt = ?7,
                      failures = ?8, lost = ?9, started = ?10, undoing = ?11, history = ?12, ready = ?13 WHERE seq = ?1";
    let row = &entry.row;
    let undoing = row.undoing.as_ref().map(json).transpose()?;
    connection.prepare_cached(update)?.execute(params![
        entry.seq,
        code(row.state),
        entry.key,
        row.run_at_ms,
        row.cancelled,
        entry.replays,
        row.attempt,
        row.failures,
        row.lost,
        row.started_ms,
        undoing,
        json(&row.history)?,
        entry.ready_ms,
    ])?;
    Ok(())
}

/// Forgets a row and its journal.
pub(super) fn remove(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM steps WHERE operation = ?1")?.execute([seq])?;
    connection.prepare_cached("DELETE FROM operations WHERE seq = ?1")?.execute([seq])?;
    Ok(())
}

/// Enters a step, or replaces what was said of it.
pub(super) fn enter(connection: &Connection, seq: i64, attempt: u64, step: &StepRow) -> rusqlite::Result<()> {
    let enter = "INSERT INTO steps (operation, step, place, state, attempt, output)
        VALUES (?1, ?2, (SELECT count(*) FROM steps WHERE operation = ?1), ?3, ?4, ?5)
        ON CONFLICT (operation, step) DO UPDATE SET state = excluded.state, attempt = excluded.attempt,
            output = excluded.output";
    let state = match step.state {
        StepState::Intent => 0,
        StepState::Done => 1,
        StepState::Undoing => 2,
        StepState::Undone => 3,
    };
    connection.prepare_cached(enter)?.execute(params![seq, step.step, state, attempt, step.output])?;
    Ok(())
}

/// A journal, in the order of the steps' first entries.
pub(super) fn steps(connection: &Connection, seq: i64) -> rusqlite::Result<Vec<StepRow>> {
    let select = "SELECT step, state, attempt, output FROM steps WHERE operation = ?1 ORDER BY place";
    let step = |row: &SqlRow<'_>| {
        let state = match row.get(1)? {
            0 => StepState::Intent,
            1 => StepState::Done,
            2 => StepState::Undoing,
            other => return decoded(1, other, 3, StepState::Undone),
        };
        Ok(state)
    };
    let row = |row: &SqlRow<'_>| {
        Ok(StepRow { step: row.get(0)?, state: step(row)?, attempt: row.get(2)?, output: row.get(3)? })
    };
    connection.prepare_cached(select)?.query_map([seq], row)?.collect()
}

/// Where an operation stands.
pub(super) fn standing(connection: &Connection, uid: &str) -> rusqlite::Result<Option<Standing>> {
    let Some(entry) = find(connection, uid)? else { return Ok(None) };
    Ok(Some(Standing { steps: steps(connection, entry.seq)?, row: entry.row }))
}

fn entry(row: &SqlRow<'_>) -> rusqlite::Result<Entry> {
    let undoing: Option<Note> = row.get_ref(14)?.as_str_or_null()?.map(|text| parsed(14, text)).transpose()?;
    Ok(Entry {
        seq: row.get(0)?,
        uid: row.get(1)?,
        object: Key { resource: OPERATIONS.into(), namespace: row.get(2)?, name: row.get(3)? },
        lane: row.get(4)?,
        key: row.get(5)?,
        replays: row.get(6)?,
        ready_ms: row.get(16)?,
        row: Row {
            state: state(7, row.get(7)?)?,
            attempt: row.get(8)?,
            failures: row.get(9)?,
            lost: row.get(10)?,
            started_ms: row.get(11)?,
            run_at_ms: row.get(12)?,
            cancelled: row.get(13)?,
            undoing,
            history: parsed(15, row.get_ref(15)?.as_str()?)?,
        },
    })
}

/// How a state is written in the table.
const fn code(state: State) -> u8 {
    match state {
        State::Ready => 0,
        State::Delayed => 1,
        State::Blocked => 2,
        State::Running => 3,
        State::Succeeded => 4,
        State::Cancelled => 5,
        State::Dead => 6,
    }
}

fn state(column: usize, code: i64) -> rusqlite::Result<State> {
    match code {
        0 => Ok(State::Ready),
        1 => Ok(State::Delayed),
        2 => Ok(State::Blocked),
        3 => Ok(State::Running),
        4 => Ok(State::Succeeded),
        5 => Ok(State::Cancelled),
        other => decoded(column, other, 6, State::Dead),
    }
}

/// The last of the codes there are.
fn decoded<T>(column: usize, code: i64, last: i64, value: T) -> rusqlite::Result<T> {
    if code == last { Ok(value) } else { Err(rusqlite::Error::IntegralValueOutOfRange(column, code)) }
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn parsed<T: DeserializeOwned>(column: usize, text: &str) -> rusqlite::Result<T> {
    let failed = |error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error));
    serde_json::from_str(text).map_err(failed)
}
