//! Work that frees space in small slices between writes: compaction, and messages of trimmed or dropped sessions.
//!
//! Compaction walks the history from the floor to its target. For each change passed, the key's older rows go, and the
//! change itself if it is a deletion; the floor rises in the same transaction. So at every moment each key keeps the
//! newest row at or below the floor, any snapshot and any watch from the floor on can be read, and a crash only pauses it.

#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use mainstay_runtime::guard::Guard;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::time::Instant;

use super::Options;
use super::jobs::Reply;
use super::sessions::place;
use crate::error::StoreError;
use crate::object::{Key, Revision};

/// Rows that a slice visits when nobody waits for the writer.
pub(super) const IDLE_SLICE: usize = 500;
/// Bytes of content after which a slice is cut short.
const SLICE_BYTES: usize = 8 << 20;
/// How often the age of revisions is noted, and the least that automatic compaction bothers with.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
const LEAST: u64 = 500;

/// See the module.
#[derive(Debug)]
pub(super) struct Chores {
    retain_for: Duration,
    retain_changes: u64,
    retain_at_most: u64,
    id_window: u64,
    floor: Revision,
    target: Revision,
    waiting: Vec<(Revision, Reply<()>)>,
    /// What the newest revision was at a time, oldest first.
    samples: VecDeque<(Instant, Revision)>,
    /// The newest revision that is old enough to go.
    aged: Revision,
    /// Keys of sessions with messages to free.
    sessions: VecDeque<i64>,
    queued: HashSet<i64>,
}

/// What a slice did; it counts once its transaction is committed.
#[derive(Debug, Default)]
pub(super) struct Done {
    floor: Option<Revision>,
    session: Option<i64>,
}

impl Done {
    /// Whether something came to an end that freed pages.
    pub(super) const fn frees(&self) -> bool {
        self.floor.is_some() || self.session.is_some()
    }
}

impl Chores {
    pub(super) fn new(connection: &Connection, options: &Options, floor: Revision) -> rusqlite::Result<Self> {
        let mut select = connection.prepare("SELECT key FROM sessions WHERE dropped = 1 OR purged < first")?;
        let sessions: VecDeque<i64> = select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(Self {
            retain_for: options.retain_for,
            retain_changes: options.retain_changes,
            retain_at_most: options.retain_at_most,
            id_window: options.id_window,
            floor,
            target: floor,
            waiting: Vec::new(),
            samples: VecDeque::new(),
            aged: floor,
            queued: sessions.iter().copied().collect(),
            sessions,
        })
    }

    /// Whether there is something to do now.
    pub(super) fn pending(&self) -> bool {
        self.target > self.floor || !self.sessions.is_empty()
    }

    /// How long the writer may sleep with regard to compaction by age.
    pub(super) fn patience(&self, newest: Revision) -> Duration {
        if newest.0 > self.floor.0 + self.retain_changes.max(LEAST) { SAMPLE_EVERY } else { Duration::from_hours(1) }
    }

    /// Compaction that somebody asked for.
    pub(super) fn compact(&mut self, floor: Revision, newest: Revision, reply: Reply<()>) {
        if floor > newest {
            reply.send(Err(StoreError::Future { asked: floor, current: newest })).ok();
        } else if floor <= self.floor {
            reply.send(Ok(())).ok();
        } else {
            self.target = self.target.max(floor);
            self.waiting.push((floor, reply));
        }
    }

    /// Messages of this session are to be freed.
    pub(super) fn free_messages(&mut self, key: i64) {
        if self.queued.insert(key) {
            self.sessions.push_back(key);
        }
    }

    /// Notes the time, and starts a compaction that retention allows.
    pub(super) fn tick(&mut self, now: Instant, newest: Revision) {
        let due = self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE_EVERY);
        if !due {
            return;
        }
        self.samples.push_back((now, newest));
        while let Some((at, revision)) = self.samples.front() {
            if now.duration_since(*at) < self.retain_for {
                break;
            }
            self.aged = *revision;
            self.samples.pop_front();
        }
        let by_count = newest.0.saturating_sub(self.retain_changes);
        let target = self.aged.0.min(by_count).max(newest.0.saturating_sub(self.retain_at_most));
        if target >= self.target.0 + LEAST {
            self.target = Revision(target);
        }
    }

    /// Does a little, inside the caller's transaction: up to `budget` changes, and as many messages.
    pub(super) fn slice(&self, connection: &Connection, budget: usize) -> rusqlite::Result<Done> {
        let mut done = Done::default();
        if budget == 0 {
            return Ok(done);
        }
        if self.target > self.floor {
            done.floor = Some(compact(connection, self.floor, self.target, budget)?);
        }
        if let Some(key) = self.sessions.front() {
            done.session = free(connection, *key, self.id_window, budget)?.then_some(*key);
        }
        Ok(done)
    }

    /// The slice is committed; gives the new floor.
    pub(super) fn settle(&mut self, done: &Done) -> Option<Revision> {
        if let Some(key) = done.session {
            self.queued.remove(&key);
            self.sessions.retain(|other| *other != key);
        }
        self.floor = done.floor?;
        Some(self.floor)
    }

    /// Answers those whose compaction is complete; the new floor is visible by now.
    pub(super) fn answer(&mut self) {
        for (floor, reply) in std::mem::take(&mut self.waiting) {
            if floor <= self.floor {
                reply.send(Ok(())).ok();
            } else {
                self.waiting.push((floor, reply));
            }
        }
    }
}

/// Passes up to `budget` changes above `floor`, and gives the new floor.
fn compact(connection: &Connection, floor: Revision, target: Revision, budget: usize) -> rusqlite::Result<Revision> {
    let select = "SELECT revision, resource, namespace, name, kind, length(body) FROM history
                  WHERE revision > ?1 AND revision <= ?2 ORDER BY revision LIMIT ?3";
    let mut select = connection.prepare_cached(select)?;
    let mut rows = select.query(params![floor.0, target.0, budget])?;
    let (mut passed, mut bytes) = (Vec::new(), 0_usize);
    while let Some(row) = rows.next()? {
        let key = Key::new(row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?);
        passed.push((row.get::<_, u64>(0)?, key, row.get::<_, u8>(4)?));
        bytes += row.get::<_, usize>(5)?;
        if bytes >= SLICE_BYTES {
            break;
        }
    }
    let older = "DELETE FROM history WHERE resource = ?1 AND namespace = ?2 AND name = ?3 AND revision < ?4";
    let mut older = connection.prepare_cached(older)?;
    let mut itself = connection.prepare_cached("DELETE FROM history WHERE revision = ?1")?;
    for (revision, key, kind) in passed.iter().filter(|_| Guard::Compaction.holds()) {
        if *kind > 0 {
            older.execute(params![key.resource, key.namespace, key.name, revision])?;
        }
        if *kind == 2 {
            itself.execute([revision])?;
        }
    }
    let whole = passed.len() < budget && bytes < SLICE_BYTES;
    let reached = if whole { target.0 } else { passed.last().map_or(target.0, |(revision, ..)| *revision) };
    connection.prepare_cached("UPDATE log SET floor = ?1")?.execute([reached])?;
    Ok(Revision(reached))
}

/// Frees up to `budget` messages of a session; `true` when nothing is left to free.
fn free(connection: &Connection, key: i64, id_window: u64, budget: usize) -> rusqlite::Result<bool> {
    let select = "SELECT dropped, first, purged FROM sessions WHERE key = ?1";
    let mut select = connection.prepare_cached(select)?;
    let found: Option<(bool, u64, u64)> =
        select.query_row([key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    // A session that was trimmed and then dropped is queued twice.
    let Some((dropped, first, purged)) = found else { return Ok(true) };
    let (from, to) = if dropped { (place(key, 0), place(key + 1, 0)) } else { (place(key, purged), place(key, first)) };
    let end = stride(connection, from, to, budget)?;
    if dropped {
        let mut delete = connection.prepare_cached("DELETE FROM messages WHERE place >= ?1 AND place < ?2")?;
        delete.execute([from, end])?;
        if end == to {
            connection.prepare_cached("DELETE FROM sessions WHERE key = ?1")?.execute([key])?;
        }
        return Ok(end == to);
    }
    let mut empty = connection.prepare_cached("UPDATE messages SET body = NULL WHERE place >= ?1 AND place < ?2")?;
    empty.execute([from, end])?;
    let upto = purged + (end - from).unsigned_abs();
    let mut forget = connection.prepare_cached("DELETE FROM messages WHERE place >= ?1 AND place < ?2")?;
    forget.execute([place(key, 0), place(key, upto.saturating_sub(id_window))])?;
    connection.prepare_cached("UPDATE sessions SET purged = ?2 WHERE key = ?1")?.execute(params![key, upto])?;
    Ok(end == to)
}

/// Where the next messages to be freed end: at most `budget` of them, and about [`SLICE_BYTES`].
fn stride(connection: &Connection, from: i64, to: i64, budget: usize) -> rusqlite::Result<i64> {
    let select = "SELECT place, ifnull(length(body), 0) FROM messages WHERE place >= ?1 AND place < ?2 ORDER BY place";
    let mut select = connection.prepare_cached(select)?;
    let mut rows = select.query([from, to])?;
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        count += 1;
        bytes += row.get::<_, usize>(1)?;
        if count >= budget || bytes >= SLICE_BYTES {
            return Ok(row.get::<_, i64>(0)? + 1);
        }
    }
    Ok(to)
}
