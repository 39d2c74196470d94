//! Sessions and their messages.

use rusqlite::params;
use serde::de::IgnoredAny;

use super::{Check, RESTORE};
use crate::message::RunRow;
use crate::sqlite::sessions::place;

struct Row {
    key: i64,
    session: String,
    first: u64,
    last: u64,
    purged: u64,
    bytes: u64,
}

/// Each session's counters say what its messages are.
pub(super) fn sessions(check: &mut Check<'_>) -> rusqlite::Result<()> {
    let select = "SELECT key, session, first, last, purged, bytes, row FROM sessions WHERE dropped = 0 ORDER BY key";
    check.each("sessions", select, |check, row| {
        if let Some(run) = row.get_ref(6)?.as_str_or_null()?
            && let Err(error) = serde_json::from_str::<RunRow>(run)
        {
            let meaning = format!("how far its run is cannot be read: {error}; no start is possible");
            check.fault(format!("session {}", row.get::<_, String>(1)?), meaning, RESTORE);
        }
        let row = Row {
            key: row.get(0)?,
            session: row.get(1)?,
            first: row.get(2)?,
            last: row.get(3)?,
            purged: row.get(4)?,
            bytes: row.get(5)?,
        };
        counters(check, &row)
    })
}

fn counters(check: &mut Check<'_>, row: &Row) -> rusqlite::Result<()> {
    let Row { key, first, last, purged, bytes, .. } = *row;
    let named = format!("session {}", row.session);
    if first == 0 || first > last + 1 || purged > first {
        let meaning = format!("its counters contradict each other: first {first}, last {last}, freed to {purged}");
        check.fault(named, meaning, RESTORE);
        return Ok(());
    }
    let select = "SELECT count(body), ifnull(sum(length(body)), 0) FROM messages WHERE place BETWEEN ?1 AND ?2";
    let mut select = check.connection.prepare_cached(select)?;
    let retained = params![place(key, first), place(key, last)];
    let (count, found): (u64, u64) = select.query_row(retained, |row| Ok((row.get(0)?, row.get(1)?)))?;
    let wanted = last + 1 - first;
    if count != wanted {
        let missing = missing(check, row)?;
        let meaning = format!(
            "{} of its messages {first} to {last} are missing, the first is {missing}: readers would pass over them",
            wanted.saturating_sub(count)
        );
        check.fault(named.clone(), meaning, RESTORE);
    }
    if found != bytes {
        let meaning = format!("its messages have {found} bytes and not {bytes}: it is trimmed at the wrong size");
        check.fault(named.clone(), meaning, "nothing is lost; it mends when all counted messages are trimmed");
    }
    let beyond = "SELECT max(place) & 4294967295 FROM messages WHERE place > ?1 AND place < ?2";
    let beyond: Option<u64> =
        check.connection.prepare_cached(beyond)?.query_row([place(key, last), place(key + 1, 0)], |row| row.get(0))?;
    if let Some(beyond) = beyond {
        let meaning =
            format!("it has a message {beyond}, and says that {last} is its last: that number is given again");
        check.fault(named, meaning, RESTORE);
    }
    Ok(())
}

/// The first number that should be there and is not.
fn missing(check: &Check<'_>, row: &Row) -> rusqlite::Result<u64> {
    let select =
        "SELECT place & 4294967295 FROM messages WHERE place BETWEEN ?1 AND ?2 AND body IS NOT NULL ORDER BY place";
    let mut select = check.connection.prepare_cached(select)?;
    let mut rows = select.query(params![place(row.key, row.first), place(row.key, row.last)])?;
    let mut expected = row.first;
    while let Some(found) = rows.next()? {
        if found.get::<_, u64>(0)? != expected {
            break;
        }
        expected += 1;
    }
    Ok(expected)
}

/// Each message is of a session, and is JSON.
pub(super) fn messages(check: &mut Check<'_>) -> rusqlite::Result<()> {
    let select = "SELECT m.place >> 32, m.place & 4294967295, m.session, m.body, m.sender, s.session
        FROM messages m LEFT JOIN sessions s ON s.key = m.place >> 32 ORDER BY m.place";
    check.each("messages", select, |check, row| {
        let (key, number, session): (i64, u64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let named = match row.get::<_, Option<String>>(5)? {
            Some(session) => format!("message {number} of session {session}"),
            None => format!("message {number} of the session with key {key}"),
        };
        if row.get_ref(5)?.as_str_or_null()?.is_none() {
            check.fault(named, "there is no such session: nobody reads it, and nobody removes it", RESTORE);
            return Ok(());
        }
        if session != key || !(0..=2).contains(&row.get::<_, i64>(4)?) {
            let meaning =
                "it is in another session's place, or of a sender that there is not: repeated, it is taken for new";
            check.fault(named.clone(), meaning, RESTORE);
        }
        let body = row.get_ref(3)?.as_blob_or_null()?;
        if body.is_some_and(|body| !body.starts_with(b"{") || serde_json::from_slice::<IgnoredAny>(body).is_err()) {
            check.fault(named, "it is no JSON object: readers of this session fail on it", RESTORE);
        }
        Ok(())
    })
}
