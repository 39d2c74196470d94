//! Sessions in memory (numbers, run rows, counters) and their messages on disk.
//!
//! Memory holds for each session what is committed, save the run row: that is read as it was put last, and is written
//! with the next batch. Messages lie in one table, clustered by session: place = key * 2^32 + number.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::watch;

use super::database;
use crate::error::StoreError;
use crate::lock;
use crate::message::{Append, Appended, Message, Page, Retention, RunRow, Sender};

/// Bytes after which a page of messages is cut.
const PAGE_BYTES: usize = 4 << 20;

/// Where a session's message lies in the table.
pub(super) const fn place(key: i64, number: u64) -> i64 {
    (key << 32) | (number & 0xffff_ffff).cast_signed()
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    entries: Mutex<HashMap<Arc<str>, Entry>>,
    /// Sessions whose run row is newer than the disk's.
    dirty: Mutex<HashSet<Arc<str>>>,
    counters: Mutex<Counters>,
}

#[derive(Debug, Default)]
struct Entry {
    stored: Option<Stored>,
    row: Option<RunRow>,
}

#[derive(Debug, Default)]
struct Counters {
    senders: HashMap<Arc<str>, watch::Sender<u64>>,
    sweep_at: usize,
}

/// A session's row on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub(super) key: i64,
    /// The oldest message that readers get, and the newest.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Bytes of the bodies from `first` to `last`.
    pub(super) bytes: u64,
}

impl Stored {
    const fn count(&self) -> u64 {
        self.last + 1 - self.first
    }
}

/// What a batch did to a session so far.
#[derive(Debug, Default)]
pub(super) struct Touched {
    dropped: bool,
    stored: Option<Stored>,
}

/// The sessions that a batch touches.
pub(super) type Batch = HashMap<Arc<str>, Touched>;

impl Sessions {
    pub(super) fn load(connection: &Connection) -> Result<Self, StoreError> {
        let select = "SELECT session, key, first, last, row, bytes FROM sessions WHERE dropped = 0";
        let mut statement = connection.prepare(select).map_err(database)?;
        let mut rows = statement.query([]).map_err(database)?;
        let mut entries = HashMap::new();
        while let Some(row) = rows.next().map_err(database)? {
            let text = row.get_ref(4).map_err(database)?.as_str_or_null().map_err(|error| database(error.into()))?;
            let parsed = text.map(serde_json::from_str).transpose();
            let run = parsed.map_err(|error| StoreError::Database(Arc::new(error)))?;
            let column = |index| row.get(index).map_err(database);
            let key = row.get(1).map_err(database)?;
            let stored = Stored { key, first: column(2)?, last: column(3)?, bytes: column(5)? };
            let session: Arc<str> = row.get(0).map_err(database)?;
            entries.insert(session, Entry { stored: Some(stored), row: run });
        }
        Ok(Self { entries: Mutex::new(entries), ..Self::default() })
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        lock(&self.entries).keys().cloned().collect()
    }

    pub(super) fn row(&self, session: &str) -> Option<RunRow> {
        lock(&self.entries).get(session)?.row.clone()
    }

    pub(super) fn put_row(&self, session: &str, row: RunRow) {
        let session: Arc<str> = session.into();
        lock(&self.entries).entry(session.clone()).or_default().row = Some(row);
        lock(&self.dirty).insert(session);
    }

    pub(super) fn is_dirty(&self) -> bool {
        !lock(&self.dirty).is_empty()
    }

    /// The sessions whose rows are to be written; the caller gives them back when that fails.
    pub(super) fn take_dirty(&self) -> HashSet<Arc<str>> {
        std::mem::take(&mut *lock(&self.dirty))
    }

    pub(super) fn give_back(&self, dirty: HashSet<Arc<str>>) {
        lock(&self.dirty).extend(dirty);
    }

    pub(super) fn counter(&self, session: &str) -> watch::Receiver<u64> {
        let mut counters = lock(&self.counters);
        if let Some(sender) = counters.senders.get(session) {
            return sender.subscribe();
        }
        if counters.senders.len() >= counters.sweep_at.max(64) {
            counters.senders.retain(|_, sender| sender.receiver_count() > 0);
            counters.sweep_at = counters.senders.len() * 2;
        }
        let last = lock(&self.entries).get(session).and_then(|entry| entry.stored).map_or(0, |stored| stored.last);
        let (sender, receiver) = watch::channel(last);
        counters.senders.insert(session.into(), sender);
        receiver
    }

    /// Makes a committed batch visible, then tells those who wait for messages.
    pub(super) fn publish(&self, batch: Batch) {
        let mut entries = lock(&self.entries);
        for (session, touched) in &batch {
            if touched.dropped {
                entries.remove(session);
            }
            if let Some(stored) = touched.stored {
                entries.entry(session.clone()).or_default().stored = Some(stored);
            }
        }
        drop(entries);
        let mut counters = lock(&self.counters);
        for (session, touched) in batch {
            if touched.dropped {
                counters.senders.remove(&session);
            }
            let Some(sender) = counters.senders.get(&session) else { continue };
            if sender.receiver_count() == 0 {
                counters.senders.remove(&session);
            } else if let Some(stored) = touched.stored {
                sender.send_if_modified(|last| std::mem::replace(last, stored.last) != stored.last);
            }
        }
    }

    fn touch<'b>(&self, batch: &'b mut Batch, session: &Arc<str>) -> &'b mut Touched {
        batch.entry(session.clone()).or_insert_with(|| {
            let stored = lock(&self.entries).get(session).and_then(|entry| entry.stored);
            Touched { dropped: false, stored }
        })
    }

    fn touch_stored<'b>(
        &self,
        connection: &Connection,
        batch: &'b mut Batch,
        session: &Arc<str>,
    ) -> rusqlite::Result<&'b mut Stored> {
        let touched = self.touch(batch, session);
        let stored = if let Some(stored) = touched.stored {
            stored
        } else {
            connection.prepare_cached("INSERT INTO sessions (session) VALUES (?1)")?.execute([session])?;
            Stored { key: connection.last_insert_rowid(), first: 1, last: 0, bytes: 0 }
        };
        Ok(touched.stored.insert(stored))
    }

    pub(super) fn write_rows(
        &self,
        connection: &Connection,
        batch: &mut Batch,
        dirty: &HashSet<Arc<str>>,
    ) -> rusqlite::Result<()> {
        for session in dirty {
            let Some(row) = self.row(session) else { continue };
            let row =
                serde_json::to_string(&row).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            let stored = self.touch_stored(connection, batch, session)?;
            connection
                .prepare_cached("UPDATE sessions SET row = ?2 WHERE key = ?1")?
                .execute(params![stored.key, row])?;
        }
        Ok(())
    }

    /// Appends, and trims what is then too much; gives the session's key, too, when its disk space is to be freed.
    pub(super) fn append(
        &self,
        connection: &Connection,
        batch: &mut Batch,
        append: &Append,
    ) -> rusqlite::Result<(Vec<Appended>, Option<i64>)> {
        let stored = self.touch_stored(connection, batch, &append.session)?;
        let insert = "INSERT INTO messages (place, session, sender, id, kind, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                      ON CONFLICT (session, sender, id) DO NOTHING";
        let mut insert = connection.prepare_cached(insert)?;
        let mut outcome = Vec::with_capacity(append.messages.len());
        let (before, sender) = (stored.last, code(append.sender));
        for message in &append.messages {
            let number = stored.last + 1;
            let body = &*message.body;
            let values = params![place(stored.key, number), stored.key, sender, message.id, message.kind, body];
            if insert.execute(values)? == 1 {
                stored.last = number;
                stored.bytes += body.len() as u64;
                outcome.push(Appended { number, duplicate: false });
            } else {
                let select = "SELECT place & 4294967295 FROM messages WHERE session = ?1 AND sender = ?2 AND id = ?3";
                let mut select = connection.prepare_cached(select)?;
                let number = select.query_row(params![stored.key, sender, message.id], |row| row.get(0))?;
                outcome.push(Appended { number, duplicate: true });
            }
        }
        if stored.last == before {
            return Ok((outcome, None));
        }
        let trimmed = trim(connection, stored, append.keep)?;
        let update = "UPDATE sessions SET first = ?2, last = ?3, bytes = ?4 WHERE key = ?1";
        let mut update = connection.prepare_cached(update)?;
        update.execute(params![stored.key, stored.first, stored.last, stored.bytes])?;
        Ok((outcome, trimmed.then_some(stored.key)))
    }

    /// Forgets the session at once; gives its key when its disk space is to be freed.
    pub(super) fn drop_session(
        &self,
        connection: &Connection,
        batch: &mut Batch,
        session: &Arc<str>,
    ) -> rusqlite::Result<Option<i64>> {
        let touched = self.touch(batch, session);
        touched.dropped = true;
        let Some(stored) = touched.stored.take() else { return Ok(None) };
        let mut update = connection.prepare_cached("UPDATE sessions SET dropped = 1, row = NULL WHERE key = ?1")?;
        update.execute([stored.key])?;
        Ok(Some(stored.key))
    }
}

/// Takes the oldest messages from readers, if there are more than may be kept; tells whether it took any.
fn trim(connection: &Connection, stored: &mut Stored, keep: Retention) -> rusqlite::Result<bool> {
    let before = stored.first;
    if !keep.is_over(stored.count(), stored.bytes) {
        return Ok(false);
    }
    let goal = keep.after_stride();
    let select = "SELECT length(body) FROM messages WHERE place >= ?1 AND place < ?2 ORDER BY place";
    let mut select = connection.prepare_cached(select)?;
    let mut oldest = select.query([place(stored.key, stored.first), place(stored.key, stored.last)])?;
    while goal.is_over(stored.count(), stored.bytes)
        && let Some(row) = oldest.next()?
    {
        stored.bytes -= row.get::<_, u64>(0)?;
        stored.first += 1;
    }
    Ok(stored.first > before)
}

/// How a sender is written in the table.
const fn code(sender: Sender) -> u8 {
    match sender {
        Sender::Agent => 0,
        Sender::User => 1,
        Sender::Platform => 2,
    }
}

/// A page of messages, read in one transaction.
pub(super) fn page(connection: &Connection, session: &str, after: u64, limit: usize) -> Result<Page, StoreError> {
    let select = "SELECT key, first, last FROM sessions WHERE session = ?1 AND dropped = 0";
    let mut statement = connection.prepare_cached(select).map_err(database)?;
    let found: Option<(i64, u64, u64)> = statement
        .query_row([session], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()
        .map_err(database)?;
    let Some((key, first, last)) = found else { return Ok(Page::default()) };
    let next = after.saturating_add(1);
    let gap = (next < first).then(|| (next, first - 1));
    let from = first.max(next);
    let mut page = Page { gap, messages: Vec::new(), last };
    if from > last {
        return Ok(page);
    }
    let select =
        "SELECT place & 4294967295, kind, body FROM messages WHERE place BETWEEN ?1 AND ?2 ORDER BY place LIMIT ?3";
    let mut statement = connection.prepare_cached(select).map_err(database)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![place(key, from), place(key, last), limit]).map_err(database)?;
    let mut bytes = 0;
    while let Some(row) = rows.next().map_err(database)? {
        let message = message(row).map_err(database)?;
        bytes += message.body.len();
        page.messages.push(message);
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    Ok(page)
}

fn message(row: &rusqlite::Row<'_>) -> rusqlite::Result<Message> {
    let number: u64 = row.get(0)?;
    let rest = row.get_ref(2)?.as_blob()?;
    let mut body = format!("{{\"number\":{number},").into_bytes();
    body.extend_from_slice(rest.get(1..).unwrap_or_default());
    Ok(Message { number, kind: row.get(1)?, body: body.into() })
}
