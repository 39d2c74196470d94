//! Claims: what was lost is put back, what is due becomes ready, and then the lanes get their turns.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::leases::Hold;
use super::{Entry, Lease, Operations, rows};
use crate::operation::{Attempt, Claim, Claimed, Claims, Note, Standing, State};
use crate::sqlite::jobs::{Broken, Failed};
use crate::sqlite::turn::Turn;

/// The most of those that are due that one claim makes ready: the next one goes on.
const PROMOTED: usize = 256;
/// A wall clock that is behind by so much, in milliseconds, was set back.
const SET_BACK: i64 = 1_000;
/// Nothing that was begun waits longer for its next attempt, in milliseconds: 1 h.
const LONGEST: i64 = 3_600_000;

impl Turn<'_> {
    /// See [`crate::Queue::claim`].
    pub(in crate::sqlite) fn claim(&mut self, claim: &Claim, now: Instant) -> Result<Claims, Failed> {
        let before = self.operations.effects.wake;
        for attempt in self.operations.leases.expired(now) {
            self.operations.put_back(&attempt, claim.now_ms)?;
        }
        self.operations.heed_clock(claim.now_ms)?;
        self.operations.promote(claim.now_ms)?;
        let mut claimed = Vec::new();
        for mut entry in self.operations.next(claim)? {
            let waited = self.operations.leases.since(entry.ready_ms);
            self.operations.begin(&mut entry, claim, now)?;
            let object = self.objects.current(&entry.object)?;
            let object = object.ok_or(Failed::Broken(Broken::Diverged("the object of an operation")))?;
            let attempt = Attempt { id: entry.uid, number: entry.row.attempt };
            let steps = rows::steps(self.connection(), entry.seq)?;
            claimed.push(Claimed { attempt, object, standing: Standing { row: entry.row, steps }, waited });
        }
        // Others have to look only when there may be more than this claim took.
        self.operations.effects.wake &= before || claimed.len() == claim.limit;
        let next_expiry = self.operations.leases.next_expiry(&self.operations.effects, now);
        Ok(Claims { claimed, next_due_ms: rows::next_due(self.connection())?, next_expiry })
    }
}

impl Operations<'_> {
    /// The worker of an attempt is lost: another may take it up.
    fn put_back(&mut self, attempt: &Attempt, now_ms: i64) -> rusqlite::Result<()> {
        let found = rows::find(self.connection, &attempt.id)?;
        let Some(mut entry) = found.filter(|entry| entry.is_held_by(attempt)) else { return Ok(()) };
        entry.row.lost += 1;
        entry.row.note(Note {
            attempt: attempt.number,
            started_ms: entry.row.started_ms,
            ended_ms: now_ms,
            reason: "Lost".to_owned(),
            message: "its worker was not heard of in time".to_owned(),
        });
        self.effects.lost += 1;
        self.effects.leases.push((Arc::clone(&attempt.id), Hold::Dropped));
        self.shift(&mut entry, State::Ready)
    }

    /// A wall clock that was set back makes nobody wait that much longer for a further attempt: times that were reckoned by the
    /// clock before are set back with it. What users wrote (`runAt`) stays.
    fn heed_clock(&mut self, now_ms: i64) -> rusqlite::Result<()> {
        let before = self.effects.wall_ms.or_else(|| self.leases.wall_ms());
        // Claims may be told a little out of order.
        let newest = before
            .filter(|before| now_ms > before.saturating_sub(SET_BACK))
            .map_or(now_ms, |before| before.max(now_ms));
        self.effects.wall_ms = Some(newest);
        match before {
            // How far it was set back while no process ran, nobody knows.
            None => rows::due_by(self.connection, now_ms.saturating_add(LONGEST)),
            Some(before) if newest < before => rows::sooner(self.connection, before - newest),
            Some(_) => Ok(()),
        }
    }

    fn promote(&mut self, now_ms: i64) -> rusqlite::Result<()> {
        for mut entry in rows::due(self.connection, now_ms, PROMOTED)? {
            let due = self.now_due(&entry)?;
            self.shift(&mut entry, due)?;
        }
        Ok(())
    }

    /// What the lanes' turns give, in their order.
    fn next(&mut self, claim: &Claim) -> rusqlite::Result<Vec<Entry>> {
        let turns = self.lanes.turns(claim.limit, claim.per_lane)?;
        let mut shares: HashMap<&str, usize> = HashMap::new();
        for lane in &turns {
            *shares.entry(lane).or_default() += 1;
        }
        let first = |(lane, share): (&str, usize)| {
            Ok((lane.to_owned(), rows::ready(self.connection, lane, share)?.into_iter()))
        };
        let mut found: HashMap<String, std::vec::IntoIter<Entry>> =
            shares.into_iter().map(first).collect::<rusqlite::Result<_>>()?;
        Ok(turns.iter().filter_map(|lane| found.get_mut(&**lane)?.next()).collect())
    }

    fn begin(&mut self, entry: &mut Entry, claim: &Claim, now: Instant) -> rusqlite::Result<()> {
        entry.row.attempt += 1;
        entry.row.started_ms = claim.now_ms;
        let cancelled = entry.row.cancelled;
        let lease = Lease { number: entry.row.attempt, expires: Some(now + claim.lease), cancelled, knew: cancelled };
        self.effects.leases.push((Arc::clone(&entry.uid), Hold::Granted(lease)));
        self.shift(entry, State::Running)
    }
}

impl Entry {
    /// Whether the attempt is the current one.
    pub(super) fn is_held_by(&self, attempt: &Attempt) -> bool {
        self.row.state == State::Running && self.row.attempt == attempt.number
    }
}
