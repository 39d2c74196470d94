//! How many operations each lane has in which state, and when it had its turn.
//!
//! The counts are changed here, and written before the transaction looks for lanes by them, and at its end. A lane in
//! which nothing waits, runs or is dead is forgotten.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::Leases;
use crate::operation::{QueueFigures, State};

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes<'w> {
    connection: &'w Connection,
    leases: &'w Leases,
    known: HashMap<Arc<str>, Lane>,
}

/// One lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) ready: u64,
    delayed: u64,
    blocked: u64,
    running: u64,
    dead: u64,
    /// When it was last served, or began to have something ready, whichever was later: it waits since then.
    turn: u64,
    changed: bool,
}

impl Lane {
    fn count(&mut self, state: State) -> Option<&mut u64> {
        match state {
            State::Ready => Some(&mut self.ready),
            State::Delayed => Some(&mut self.delayed),
            State::Blocked => Some(&mut self.blocked),
            State::Running => Some(&mut self.running),
            State::Dead => Some(&mut self.dead),
            State::Succeeded | State::Cancelled => None,
        }
    }

    const fn is_empty(&self) -> bool {
        self.ready + self.delayed + self.blocked + self.running + self.dead == 0
    }
}

impl<'w> Lanes<'w> {
    pub(super) fn new(connection: &'w Connection, leases: &'w Leases) -> Self {
        Self { connection, leases, known: HashMap::new() }
    }

    /// An operation of the lane has come (from `None`), changed its state, or gone. Gives the lane as it is then.
    pub(super) fn shift(&mut self, name: &Arc<str>, from: Option<State>, to: Option<State>) -> rusqlite::Result<Lane> {
        let mut lane = match self.known.get(name) {
            Some(known) => *known,
            None => load(self.connection, name)?,
        };
        let waited = lane.ready > 0;
        if let Some(count) = from.and_then(|from| lane.count(from)) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = to.and_then(|to| lane.count(to)) {
            *count += 1;
        }
        let served = to == Some(State::Running);
        if served || (lane.ready > 0 && !waited) {
            lane.turn = self.leases.next_turn();
        }
        lane.changed = true;
        self.known.insert(Arc::clone(name), lane);
        Ok(lane)
    }

    /// Writes what has changed.
    pub(super) fn flush(&mut self) -> rusqlite::Result<()> {
        for (name, lane) in self.known.iter_mut().filter(|(_, lane)| lane.changed) {
            lane.changed = false;
            if lane.is_empty() {
                self.connection.prepare_cached("DELETE FROM lanes WHERE lane = ?1")?.execute([name])?;
                continue;
            }
            let store = "INSERT INTO lanes (lane, ready, delayed, blocked, running, dead, turn)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (lane) DO UPDATE SET ready = excluded.ready,
                    delayed = excluded.delayed, blocked = excluded.blocked, running = excluded.running,
                    dead = excluded.dead, turn = excluded.turn";
            let values = params![name, lane.ready, lane.delayed, lane.blocked, lane.running, lane.dead, lane.turn];
            self.connection.prepare_cached(store)?.execute(values)?;
        }
        Ok(())
    }

    /// Whose turn it is, up to `limit` times: the lane that has the fewest running, then the one that waits longest; none
    /// that has `per_lane` running. No more than the first `limit` lanes can be concerned.
    pub(super) fn turns(&mut self, limit: usize, per_lane: usize) -> rusqlite::Result<Vec<Arc<str>>> {
        self.flush()?;
        let select = "SELECT running, turn, ready, lane FROM lanes WHERE ready > 0 AND running < ?1
                      ORDER BY running, turn LIMIT ?2";
        let mut select = self.connection.prepare_cached(select)?;
        let waiting = |row: &rusqlite::Row<'_>| {
            Ok(Reverse(Waiting { running: row.get(0)?, turn: row.get(1)?, ready: row.get(2)?, lane: row.get(3)? }))
        };
        let lanes = select.query_map(params![per_lane, limit], waiting)?;
        let mut lanes: BinaryHeap<Reverse<Waiting>> = lanes.collect::<rusqlite::Result<_>>()?;
        let (mut turns, mut served) = (Vec::new(), u64::MAX / 2);
        while turns.len() < limit
            && let Some(Reverse(Waiting { running, ready, lane, .. })) = lanes.pop()
        {
            turns.push(Arc::clone(&lane));
            served += 1;
            if ready > 1 && running + 1 < per_lane as u64 {
                lanes.push(Reverse(Waiting { running: running + 1, turn: served, ready: ready - 1, lane }));
            }
        }
        Ok(turns)
    }
}

/// A lane that has something ready; the least is next.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    running: u64,
    turn: u64,
    ready: u64,
    lane: Arc<str>,
}

fn load(connection: &Connection, name: &str) -> rusqlite::Result<Lane> {
    let select = "SELECT ready, delayed, blocked, running, dead, turn FROM lanes WHERE lane = ?1";
    let lane = |row: &rusqlite::Row<'_>| {
        Ok(Lane {
            ready: row.get(0)?,
            delayed: row.get(1)?,
            blocked: row.get(2)?,
            running: row.get(3)?,
            dead: row.get(4)?,
            turn: row.get(5)?,
            changed: false,
        })
    };
    Ok(connection.prepare_cached(select)?.query_row([name], lane).optional()?.unwrap_or_default())
}

/// What the tables tell of the figures.
pub(super) fn figures(connection: &Connection) -> rusqlite::Result<QueueFigures> {
    let mut figures = QueueFigures::default();
    let mut select = connection.prepare_cached("SELECT lane, ready, delayed, blocked, running, dead FROM lanes")?;
    let mut rows = select.query([])?;
    let states = [State::Ready, State::Delayed, State::Blocked, State::Running, State::Dead];
    while let Some(row) = rows.next()? {
        let lane: Arc<str> = row.get(0)?;
        for (at, state) in states.into_iter().enumerate() {
            let count: u64 = row.get(at + 1)?;
            figures.depth.extend((count > 0).then(|| (Arc::clone(&lane), state, count)));
        }
    }
    Ok(figures)
}
