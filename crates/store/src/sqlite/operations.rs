//! The queue of operations on SQLite: rows in the writer's transactions, leases in memory.
//!
//! What the rows and the lanes' counts say changes together, in one transaction with the objects concerned. A claim finds
//! its lane, and its rows, by index: what waits costs nothing. The directory's lock says that no other process lives, so
//! a lease needs no disk: whatever is running when the store is opened has lost its worker.

mod claim;
mod follow;
mod lanes;
mod leases;
mod rows;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rusqlite::Connection;
use tokio::sync::watch;
use tokio::time::Instant;

use super::jobs::Broken;
use super::{SqliteStore, database};
use crate::error::StoreError;
use crate::object::{MAX_OBJECT, Object};
use crate::operation::{
    Attempt, Claim, Claims, DeadLetter, Queue, QueueFigures, Renewal, Settlement, Standing, State, StepRow,
};
use crate::{at_most, refuse};
use lanes::Lanes;
use leases::Lease;
pub(super) use leases::{Effects, Leases};
use rows::Entry;

/// The queue's part of a transaction.
#[derive(Debug)]
pub(super) struct Operations<'w> {
    connection: &'w Connection,
    leases: &'w Leases,
    lanes: Lanes<'w>,
    effects: Effects,
}

impl<'w> Operations<'w> {
    pub(super) fn new(connection: &'w Connection, leases: &'w Leases) -> Self {
        Self { connection, leases, lanes: Lanes::new(connection, leases), effects: Effects::default() }
    }

    /// Writes what is written once for all jobs; gives what is to change in memory after the commit.
    pub(super) fn finish(mut self) -> Result<Effects, Broken> {
        self.lanes.flush()?;
        Ok(self.effects)
    }

    /// Brings a row to a state and stores it. Whoever waits for its key may be ready then.
    fn shift(&mut self, entry: &mut Entry, to: State) -> rusqlite::Result<()> {
        let from = std::mem::replace(&mut entry.row.state, to);
        if to == State::Ready && from != to {
            entry.ready_ms = self.leases.now_ms();
        }
        rows::save(self.connection, entry)?;
        self.moved(entry, Some(from), Some(to))?;
        if holds_key(from) && !holds_key(to) { self.pass_on(entry) } else { Ok(()) }
    }

    /// Ready, or blocked when another has the key.
    fn now_due(&self, entry: &Entry) -> rusqlite::Result<State> {
        Ok(if rows::is_key_taken(self.connection, entry)? { State::Blocked } else { State::Ready })
    }

    /// The entry's key has become free: the next that waits for it is ready.
    fn pass_on(&mut self, entry: &Entry) -> rusqlite::Result<()> {
        match rows::next_blocked(self.connection, entry)? {
            Some(mut next) => self.shift(&mut next, State::Ready),
            None => Ok(()),
        }
    }

    /// Notes it in the lane, and for those who wait. Who waits has to know of what is due later, too.
    fn moved(&mut self, entry: &Entry, from: Option<State>, to: Option<State>) -> rusqlite::Result<()> {
        self.effects.wake |= matches!(to, Some(State::Ready | State::Delayed));
        let left = self.lanes.shift(&entry.lane, from, to)?;
        // A lane that was at its bound has room again.
        self.effects.wake |= from == Some(State::Running) && left.ready > 0;
        Ok(())
    }
}

/// Of one key only one is in such a state.
const fn holds_key(state: State) -> bool {
    matches!(state, State::Ready | State::Running)
}

impl Queue for SqliteStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claims, StoreError>> {
        let now = Instant::now();
        self.submit(0, move |turn| turn.claim(&claim, now))
    }

    fn renew(&self, attempts: Vec<Attempt>, lease: Duration) -> BoxFuture<'_, Result<Vec<Renewal>, StoreError>> {
        std::future::ready(self.health.open().map(|()| self.leases.renew(&attempts, lease))).boxed()
    }

    fn journal(&self, attempt: &Attempt, entry: StepRow) -> BoxFuture<'_, Result<(), StoreError>> {
        let (attempt, now) = (attempt.clone(), Instant::now());
        let size = entry.output.len();
        if let Err(error) = at_most(size, MAX_OBJECT) {
            return refuse(error);
        }
        self.submit(size, move |turn| turn.operations.journal(&attempt, &entry, now))
    }

    fn settle(
        &self,
        attempt: &Attempt,
        settlement: Settlement,
    ) -> BoxFuture<'_, Result<Option<Arc<Object>>, StoreError>> {
        let attempt = attempt.clone();
        let size = settlement.size();
        let meta = match &settlement {
            Settlement::End { write, .. } => serde_json::to_string(&write.draft().meta),
            _ => Ok(String::new()),
        };
        match (at_most(size, MAX_OBJECT), meta) {
            (Ok(()), Ok(meta)) => self.submit(size, move |turn| turn.settle(&attempt, settlement, &meta)),
            (Err(error), _) => refuse(error),
            (_, Err(error)) => refuse(StoreError::Database(Arc::new(error))),
        }
    }

    fn operations(&self, ids: Vec<Arc<str>>) -> BoxFuture<'_, Result<Vec<Option<Standing>>, StoreError>> {
        let readers = Arc::clone(&self.readers);
        async move {
            let standings = move |connection: &Connection| {
                let standing = |id: &Arc<str>| rows::standing(connection, id);
                ids.iter().map(standing).collect::<rusqlite::Result<_>>().map_err(database)
            };
            readers.run(standings).await
        }
        .boxed()
    }

    fn dead_letters(&self, limit: usize) -> BoxFuture<'_, Result<Vec<DeadLetter>, StoreError>> {
        let readers = Arc::clone(&self.readers);
        async move { readers.run(move |connection| rows::dead(connection, limit).map_err(database)).await }.boxed()
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.leases.changes()
    }

    fn queue_figures(&self) -> BoxFuture<'_, Result<QueueFigures, StoreError>> {
        let (readers, leases) = (Arc::clone(&self.readers), Arc::clone(&self.leases));
        async move {
            let read = |connection: &Connection| Ok((lanes::figures(connection)?, rows::ready_since(connection)?));
            let (read, since) = readers.run(move |connection| read(connection).map_err(database)).await?;
            let (fenced, lost) = leases.counts();
            Ok(QueueFigures { longest_wait: since.map(|since| leases.since(since)), fenced, lost, ..read })
        }
        .boxed()
    }
}
