//! What the holder of an attempt says of it: steps, and what came of it.

use std::sync::Arc;

use mainstay_runtime::guard::Guard;
use tokio::time::Instant;

use super::leases::Hold;
use super::{Entry, Operations, rows};
use crate::error::StoreError;
use crate::object::Object;
use crate::operation::{Attempt, Note, Settlement, State, StepRow, StepState};
use crate::sqlite::jobs::Failed;
use crate::sqlite::turn::Turn;
use crate::watch::ChangeKind;

impl Turn<'_> {
    /// See [`crate::Queue::settle`]; `meta` is that of the object's write, serialised.
    pub(in crate::sqlite) fn settle(
        &mut self,
        attempt: &Attempt,
        settlement: Settlement,
        meta: &str,
    ) -> Result<Option<Arc<Object>>, Failed> {
        let mut entry = self.operations.held(attempt)?;
        let (state, note, write) = match settlement {
            Settlement::End { state, note, write } => (state, note, write),
            Settlement::Bury { note } => {
                self.operations.end(&mut entry, State::Dead, Some(note))?;
                return Ok(None);
            }
            again => {
                self.operations.put_off(entry, attempt, again)?;
                return Ok(None);
            }
        };
        // Whoever cancelled it was told that it is taken back; its holder has tried nothing of the kind.
        if !matches!(state, State::Succeeded | State::Cancelled) && self.operations.is_to_be_undone(&entry, attempt) {
            let run_at_ms = 0;
            let again = match note {
                Some(note) => Settlement::Retry { run_at_ms, note, undoing: None },
                None => Settlement::Later { run_at_ms },
            };
            self.operations.put_off(entry, attempt, again)?;
            return Ok(None);
        }
        if *write.key() != entry.object {
            return Err(Failed::Refused(StoreError::Missing));
        }
        // First what can be refused.
        let change = self.objects.write(&write, meta)?;
        if change.kind == ChangeKind::Deleted {
            self.operations.forget(&entry)?;
        } else {
            self.operations.end(&mut entry, state, note)?;
        }
        Ok(Some(Arc::clone(&change.object)))
    }
}

impl Operations<'_> {
    /// See [`crate::Queue::journal`].
    pub(in crate::sqlite) fn journal(&mut self, attempt: &Attempt, step: &StepRow, now: Instant) -> Result<(), Failed> {
        let mut entry = self.held(attempt)?;
        if Guard::Attempt.holds() && !self.leases.of(attempt).is_some_and(|lease| lease.is_held(now)) {
            return Err(self.fence(attempt));
        }
        rows::enter(self.connection, entry.seq, attempt.number, step)?;
        if matches!(step.state, StepState::Done | StepState::Undone) && entry.row.lost > 0 {
            entry.row.lost = 0;
            rows::save(self.connection, &entry)?;
        }
        Ok(())
    }

    /// The row of the attempt, when that is the current one.
    fn held(&mut self, attempt: &Attempt) -> Result<Entry, Failed> {
        let found = rows::find(self.connection, &attempt.id)?;
        let is_held = |entry: &Entry| entry.is_held_by(attempt) || !Guard::Attempt.holds();
        found.filter(is_held).ok_or_else(|| self.fence(attempt))
    }

    fn fence(&mut self, attempt: &Attempt) -> Failed {
        self.effects.fenced += 1;
        Failed::Refused(StoreError::Fenced(attempt.clone()))
    }

    /// There will be another attempt.
    fn put_off(&mut self, mut entry: Entry, attempt: &Attempt, settlement: Settlement) -> rusqlite::Result<()> {
        let run_at_ms = match settlement {
            Settlement::Retry { run_at_ms, note, undoing } => {
                entry.row.undoing = undoing.or(entry.row.undoing.take());
                entry.row.failed(note);
                entry.row.lost = 0;
                run_at_ms
            }
            Settlement::Later { run_at_ms } => {
                entry.row.lost = 0;
                run_at_ms
            }
            Settlement::Unbegun { run_at_ms } => run_at_ms,
            Settlement::End { .. } | Settlement::Bury { .. } => return Ok(()),
        };
        entry.row.run_at_ms = run_at_ms;
        // A cancellation does not wait for a time that was chosen by an attempt that began without knowing of it.
        if self.is_news(&entry, attempt) {
            entry.row.run_at_ms = 0;
        }
        self.effects.leases.push((Arc::clone(&attempt.id), Hold::Dropped));
        self.shift(&mut entry, State::Delayed)
    }

    /// Whether it was cancelled since the attempt began.
    fn is_news(&self, entry: &Entry, attempt: &Attempt) -> bool {
        entry.row.cancelled && !self.leases.of(attempt).is_some_and(|lease| lease.knew)
    }

    /// Whether it was cancelled, and the attempt took nothing back.
    fn is_to_be_undone(&self, entry: &Entry, attempt: &Attempt) -> bool {
        entry.row.undoing.is_none() && self.is_news(entry, attempt)
    }

    fn end(&mut self, entry: &mut Entry, state: State, note: Option<Note>) -> rusqlite::Result<()> {
        if let Some(note) = note {
            entry.row.failed(note);
        }
        self.effects.leases.push((Arc::clone(&entry.uid), Hold::Dropped));
        self.shift(entry, if state.is_final() { state } else { State::Dead })
    }
}
