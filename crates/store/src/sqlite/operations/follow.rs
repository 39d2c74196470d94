//! How a row follows its object: it comes and goes with it, is cancelled, and is put back into the queue.

use std::sync::Arc;

use super::leases::Hold;
use super::{Entry, Operations, holds_key, rows};
use crate::operation::{Queued, Row, State};
use crate::watch::{Change, ChangeKind};

impl Operations<'_> {
    /// A write of an operation's object was made in this transaction.
    pub(in crate::sqlite) fn follow(&mut self, change: &Change, queued: Option<&Queued>) -> rusqlite::Result<()> {
        let uid = &change.object.meta.uid;
        if change.kind == ChangeKind::Deleted {
            return match rows::find(self.connection, uid)? {
                Some(entry) => self.forget(&entry),
                None => Ok(()),
            };
        }
        let Some(queued) = queued else { return Ok(()) };
        match rows::find(self.connection, uid)? {
            None => self.enqueue(change, queued),
            Some(mut entry) => {
                if queued.replays > entry.replays {
                    self.replay(&mut entry, queued)?;
                }
                if queued.cancelled && !entry.row.cancelled {
                    self.cancel(&mut entry)?;
                }
                Ok(())
            }
        }
    }

    fn enqueue(&mut self, change: &Change, queued: &Queued) -> rusqlite::Result<()> {
        let row = Row {
            state: State::Delayed,
            attempt: 0,
            failures: 0,
            lost: 0,
            started_ms: 0,
            run_at_ms: queued.run_at_ms,
            cancelled: queued.cancelled,
            undoing: None,
            history: Vec::new(),
        };
        let mut entry = Entry {
            seq: 0,
            uid: Arc::clone(&change.object.meta.uid),
            object: change.object.key.clone(),
            lane: Arc::clone(&queued.lane),
            key: queued.concurrency_key.clone().filter(|_| !queued.cancelled),
            replays: queued.replays,
            ready_ms: 0,
            row,
        };
        if queued.cancelled || queued.run_at_ms <= 0 {
            entry.row.state = self.now_due(&entry)?;
        }
        if entry.row.state == State::Ready {
            entry.ready_ms = self.leases.now_ms();
        }
        rows::insert(self.connection, &entry, queued)?;
        self.moved(&entry, None, Some(entry.row.state))
    }

    /// The operation is gone, and so is its holder's claim to it.
    pub(super) fn forget(&mut self, entry: &Entry) -> rusqlite::Result<()> {
        rows::remove(self.connection, entry.seq)?;
        self.effects.leases.push((Arc::clone(&entry.uid), Hold::Dropped));
        self.moved(entry, Some(entry.row.state), None)?;
        if holds_key(entry.row.state) { self.pass_on(entry) } else { Ok(()) }
    }

    /// A dead letter begins again; its attempts and its journal go on. Of any other only the number is noted.
    fn replay(&mut self, entry: &mut Entry, queued: &Queued) -> rusqlite::Result<()> {
        entry.replays = queued.replays;
        if entry.row.state != State::Dead {
            return rows::save(self.connection, entry);
        }
        entry.row = Row { failures: 0, lost: 0, undoing: None, cancelled: queued.cancelled, ..entry.row.clone() };
        entry.key.clone_from(&queued.concurrency_key);
        let due = self.now_due(entry)?;
        self.shift(entry, due)
    }

    /// What has not begun has nothing to undo, and needs no key to end.
    fn cancel(&mut self, entry: &mut Entry) -> rusqlite::Result<()> {
        entry.row.cancelled = true;
        let begun = entry.row.attempt > 0;
        match entry.row.state {
            State::Ready | State::Delayed | State::Blocked if !begun => {
                let had = entry.clone();
                entry.key = None;
                self.shift(entry, State::Ready)?;
                if had.row.state == State::Ready { self.pass_on(&had) } else { Ok(()) }
            }
            State::Delayed => {
                let due = self.now_due(entry)?;
                self.shift(entry, due)
            }
            State::Running => {
                self.effects.leases.push((Arc::clone(&entry.uid), Hold::Cancelled));
                self.effects.wake = true;
                rows::save(self.connection, entry)
            }
            State::Ready | State::Blocked | State::Succeeded | State::Cancelled | State::Dead => {
                rows::save(self.connection, entry)
            }
        }
    }
}
