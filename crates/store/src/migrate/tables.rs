//! What of a SQLite state goes into which table of PostgreSQL, column by column.

use rusqlite::types::{FromSqlError, Type as Stored};
use rusqlite::{Row, types::FromSqlResult};
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::postgres::load::Cell;

/// A table that is filled.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name there.
    pub(super) name: &'static str,
    /// Its columns there, in the order in which `select` gives them.
    columns: &'static [(&'static str, Sort)],
    /// The rows, here.
    pub(super) select: &'static str,
}

/// What a column holds.
#[derive(Debug, Clone, Copy)]
enum Sort {
    Big,
    Int,
    Small,
    Flag,
    Text,
    Bytes,
    /// JSON that is text here.
    Json,
}

use Sort::{Big, Bytes, Flag, Int, Json, Small, Text};

/// In the order in which they are filled. Of the history only what is current goes, as into a new epoch; of sessions that
/// were dropped nothing, and leases are free.
pub(super) const TABLES: [Table; 10] = [
    Table {
        name: "kept",
        columns: &[
            ("revision", Big),
            ("resource", Text),
            ("namespace", Text),
            ("name", Text),
            ("kind", Small),
            ("meta", Text),
            ("body", Bytes),
        ],
        select: "SELECT h.revision, h.resource, h.namespace, h.name, h.kind, h.meta, h.body
            FROM objects o JOIN history h ON h.revision = o.revision",
    },
    Table {
        name: "objects",
        columns: &[("resource", Text), ("namespace", Text), ("name", Text), ("revision", Big)],
        select: "SELECT resource, namespace, name, revision FROM objects",
    },
    Table {
        name: "counters",
        columns: &[("name", Text), ("value", Big)],
        select: "SELECT name, value FROM counters WHERE substr(name, 1, 6) <> 'lease/'",
    },
    Table {
        name: "leases",
        columns: &[("name", Text), ("holder", Text), ("term", Big), ("renewed", Big)],
        select: "SELECT substr(name, 7), '', value, 0 FROM counters WHERE substr(name, 1, 6) = 'lease/'",
    },
    Table {
        name: "keyring",
        columns: &[("name", Text), ("version", Big), ("wrapped", Bytes), ("created", Big)],
        select: "SELECT name, version, wrapped, created FROM keyring",
    },
    Table {
        name: "sessions",
        columns: &[
            ("key", Big),
            ("session", Text),
            ("first", Big),
            ("last", Big),
            ("purged", Big),
            ("bytes", Big),
            ("row", Text),
        ],
        select: "SELECT key, session, first, last, purged, bytes, row FROM sessions WHERE dropped = 0",
    },
    Table {
        name: "messages",
        columns: &[("session", Big), ("number", Big), ("sender", Small), ("id", Text), ("kind", Text), ("body", Bytes)],
        select: "SELECT session, place & 4294967295, sender, id, kind, body FROM messages
            WHERE session IN (SELECT key FROM sessions WHERE dropped = 0)",
    },
    Table {
        name: "operations",
        columns: &[
            ("seq", Big),
            ("uid", Text),
            ("namespace", Text),
            ("name", Text),
            ("lane", Text),
            ("handler", Text),
            ("priority", Int),
            ("key", Text),
            ("created", Big),
            ("state", Small),
            ("run_at", Big),
            ("cancelled", Flag),
            ("replays", Int),
            ("attempt", Big),
            ("failures", Int),
            ("lost", Int),
            ("started", Big),
            ("undoing", Json),
            ("notes", Json),
            ("ready", Big),
        ],
        select:
            "SELECT seq, uid, namespace, name, lane, handler, priority, key, created, state, run_at, cancelled, replays,
            attempt, failures, lost, started, undoing, history, ready FROM operations",
    },
    Table {
        name: "steps",
        columns: &[
            ("operation", Big),
            ("step", Text),
            ("place", Int),
            ("state", Small),
            ("attempt", Big),
            ("output", Text),
        ],
        select: "SELECT operation, step, place, state, attempt, output FROM steps",
    },
    Table {
        name: "lanes",
        columns: &[
            ("lane", Text),
            ("ready", Big),
            ("delayed", Big),
            ("blocked", Big),
            ("running", Big),
            ("dead", Big),
            ("turn", Big),
        ],
        select: "SELECT lane, ready, delayed, blocked, running, dead, turn FROM lanes",
    },
];

impl Table {
    /// Its columns, as a statement names them.
    pub(super) fn columns(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        names.join(", ")
    }

    pub(super) fn types(&self) -> Vec<Type> {
        let of = |(_, sort): &(&str, Sort)| match sort {
            Big => Type::INT8,
            Int => Type::INT4,
            Small => Type::INT2,
            Flag => Type::BOOL,
            Text => Type::TEXT,
            Bytes => Type::BYTEA,
            Json => Type::JSONB,
        };
        self.columns.iter().map(of).collect()
    }

    /// A row's values.
    pub(super) fn cells<'r>(&self, row: &'r Row<'_>) -> rusqlite::Result<Vec<Cell<'r>>> {
        self.columns.iter().enumerate().map(|(at, (_, sort))| cell(row, at, *sort)).collect()
    }
}

fn cell<'r>(row: &'r Row<'_>, at: usize, sort: Sort) -> rusqlite::Result<Cell<'r>> {
    let wrong = |error: FromSqlError| rusqlite::Error::FromSqlConversionFailure(at, Stored::Null, Box::new(error));
    let text = || -> rusqlite::Result<Option<&'r str>> {
        let text: FromSqlResult<_> = row.get_ref(at)?.as_str_or_null();
        text.map_err(wrong)
    };
    Ok(match sort {
        Big => Box::new(row.get::<_, i64>(at)?),
        Int => Box::new(row.get::<_, i32>(at)?),
        Small => Box::new(row.get::<_, i16>(at)?),
        Flag => Box::new(row.get::<_, bool>(at)?),
        Text => Box::new(text()?),
        Bytes => Box::new(row.get_ref(at)?.as_bytes_or_null().map_err(wrong)?),
        Json => Box::new(text()?.map(|text| json(at, text)).transpose()?),
    })
}

fn json(at: usize, text: &str) -> rusqlite::Result<Value> {
    let failed = |error| rusqlite::Error::FromSqlConversionFailure(at, Stored::Text, Box::new(error));
    let mut value = serde_json::from_str(text).map_err(failed)?;
    if text.contains("\\u0000") {
        replace_nul(&mut value);
    }
    Ok(value)
}

/// PostgreSQL takes no NUL in JSON, and what a program that failed has said may hold one.
fn replace_nul(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace('\0', "\u{fffd}"),
        Value::Array(values) => values.iter_mut().for_each(replace_nul),
        Value::Object(members) => members.values_mut().for_each(replace_nul),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
