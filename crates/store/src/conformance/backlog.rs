//! What a queue of operations must do, in the simplest possible way: a list that is searched for everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::object::Revision;
use crate::operation::{Attempt, HISTORY, Note, Queued, Renewal, Row, Settlement, Standing, State, StepRow, StepState};

/// All operations there are, in the order of their creation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backlog {
    pub(crate) operations: Vec<Operation>,
    /// When each lane was served, or began to have something ready.
    turns: BTreeMap<Arc<str>, u64>,
    turn: u64,
    /// The clock of leases, in milliseconds.
    pub(crate) clock_ms: u64,
    pub(crate) fenced: u64,
    pub(crate) lost: u64,
}

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) uid: Arc<str>,
    pub(crate) revision: Revision,
    pub(crate) queued: Queued,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) row: Row,
    pub(crate) steps: Vec<StepRow>,
    lease: Option<Lease>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    expires_ms: u64,
    knew: bool,
}

/// A claimed operation: its attempt, its object's revision, and how it stands.
pub(crate) type Taken = (Attempt, Revision, Standing);

impl Operation {
    pub(crate) fn standing(&self) -> Standing {
        Standing { row: self.row.clone(), steps: self.steps.clone() }
    }

    fn note(&mut self, note: Note) {
        self.row.history.push(note);
        if self.row.history.len() > HISTORY {
            self.row.history.remove(0);
        }
    }

    /// Whether it was cancelled since it was claimed.
    fn is_news(&self) -> bool {
        self.row.cancelled && !self.lease.is_some_and(|lease| lease.knew)
    }

    fn has_key(&self) -> bool {
        self.key.is_some() && matches!(self.row.state, State::Ready | State::Running)
    }
}

/// A lost worker's attempt.
pub(crate) fn lost_note(attempt: u64, started_ms: i64, ended_ms: i64) -> Note {
    let message = "its worker was not heard of in time".to_owned();
    Note { attempt, started_ms, ended_ms, reason: "Lost".to_owned(), message }
}

impl Backlog {
    pub(crate) fn find(&self, uid: &str) -> Option<usize> {
        self.operations.iter().position(|operation| &*operation.uid == uid)
    }

    /// The store was closed, or crashed: nobody holds anything.
    pub(crate) fn reopened(&mut self) {
        self.operations.iter_mut().for_each(|operation| operation.lease = None);
        (self.fenced, self.lost) = (0, 0);
    }

    /// The holder of these is gone.
    pub(crate) fn lose(&mut self, whose: impl Fn(&Arc<str>) -> bool) {
        let theirs = self.operations.iter_mut().filter(|operation| whose(&operation.uid));
        theirs.for_each(|operation| operation.lease = None);
        (self.fenced, self.lost) = (0, 0);
    }

    /// Whether a claim would find something that waits for nothing, but perhaps for its lane.
    pub(crate) fn is_claimable(&self) -> bool {
        let lost = |one: &Operation| one.row.state == State::Running && !self.is_held(one);
        self.operations.iter().any(|one| one.row.state == State::Ready || lost(one))
    }

    /// Operations by lane and state, without those that ended well or were cancelled.
    pub(crate) fn depth(&self) -> Vec<(Arc<str>, State, u64)> {
        let mut depth = Vec::new();
        for lane in self.operations.iter().map(|one| &one.queued.lane).collect::<BTreeSet<_>>() {
            for state in [State::Ready, State::Delayed, State::Blocked, State::Running, State::Dead] {
                let count = self.count(lane, state) as u64;
                depth.extend((count > 0).then(|| (Arc::clone(lane), state, count)));
            }
        }
        depth
    }

    pub(crate) fn count(&self, lane: &str, state: State) -> usize {
        let there = |one: &&Operation| *one.queued.lane == *lane && one.row.state == state;
        self.operations.iter().filter(there).count()
    }

    /// Changes a state; gives a key that this frees to who is next.
    fn put(&mut self, at: usize, state: State) {
        let lane = Arc::clone(&self.operations[at].queued.lane);
        let (waited, had_key) = (self.count(&lane, State::Ready) > 0, self.operations[at].has_key());
        self.operations[at].row.state = state;
        if state == State::Running || (!waited && self.count(&lane, State::Ready) > 0) {
            self.turn += 1;
            self.turns.insert(Arc::clone(&lane), self.turn);
        }
        if had_key && !self.operations[at].has_key() {
            let key = self.operations[at].key.clone();
            self.pass_on(&lane, key.as_ref());
        }
    }

    fn pass_on(&mut self, lane: &str, key: Option<&Arc<str>>) {
        let waits =
            |one: &Operation| *one.queued.lane == *lane && one.key.as_ref() == key && one.row.state == State::Blocked;
        if let Some(next) = self.first(waits) {
            self.put(next, State::Ready);
        }
    }

    /// Of those, the one with the highest priority, and of these the oldest.
    fn first(&self, those: impl Fn(&Operation) -> bool) -> Option<usize> {
        let of = |at: &usize| those(&self.operations[*at]);
        (0..self.operations.len()).filter(of).max_by_key(|at| (self.operations[*at].queued.priority, usize::MAX - at))
    }

    /// Ready, or blocked while another has its key.
    fn due(&mut self, at: usize) {
        let one = &self.operations[at];
        let same = |other: &Operation| other.has_key() && other.key == one.key && other.queued.lane == one.queued.lane;
        let taken = self.operations.iter().any(|other| other.uid != one.uid && same(other));
        self.put(at, if taken { State::Blocked } else { State::Ready });
    }

    pub(crate) fn enqueue(&mut self, uid: Arc<str>, queued: Queued, revision: Revision) {
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
        let at_once = queued.run_at_ms == 0 || queued.cancelled;
        let key = if queued.cancelled { None } else { queued.concurrency_key.clone() };
        self.operations.push(Operation { uid, revision, queued, key, row, steps: Vec::new(), lease: None });
        if at_once {
            self.due(self.operations.len() - 1);
        }
    }

    pub(crate) fn forget(&mut self, at: usize) {
        if self.operations[at].has_key() {
            // Out of the way of who is next.
            self.put(at, State::Dead);
        }
        self.operations.remove(at);
    }

    pub(crate) fn replay(&mut self, at: usize) {
        let one = &mut self.operations[at];
        one.queued.replays += 1;
        if one.row.state == State::Dead {
            (one.row.failures, one.row.lost, one.row.undoing) = (0, 0, None);
            one.row.cancelled = one.queued.cancelled;
            one.key.clone_from(&one.queued.concurrency_key);
            self.due(at);
        }
    }

    pub(crate) fn cancel(&mut self, at: usize) {
        let one = &mut self.operations[at];
        one.queued.cancelled = true;
        if std::mem::replace(&mut one.row.cancelled, true) {
            return;
        }
        let waits = matches!(one.row.state, State::Ready | State::Delayed | State::Blocked);
        if waits && one.row.attempt == 0 {
            let (had_key, key) = (one.has_key(), one.key.take());
            let lane = Arc::clone(&one.queued.lane);
            self.put(at, State::Ready);
            if had_key {
                self.pass_on(&lane, key.as_ref());
            }
        } else if one.row.state == State::Delayed {
            self.due(at);
        }
    }

    fn is_held(&self, one: &Operation) -> bool {
        one.row.state == State::Running && one.lease.is_some_and(|lease| lease.expires_ms > self.clock_ms)
    }

    pub(crate) fn claim(&mut self, (limit, per_lane): (usize, usize), lease_ms: u64, now_ms: i64) -> Vec<Taken> {
        let mut lost: Vec<usize> = (0..self.operations.len()).collect();
        lost.retain(|at| self.operations[*at].row.state == State::Running && !self.is_held(&self.operations[*at]));
        lost.sort_by_key(|at| Arc::clone(&self.operations[*at].uid));
        for at in lost {
            self.lost += 1;
            let one = &mut self.operations[at];
            one.row.lost += 1;
            one.note(lost_note(one.row.attempt, one.row.started_ms, now_ms));
            self.put(at, State::Ready);
        }
        let mut due: Vec<usize> = (0..self.operations.len()).collect();
        due.retain(|at| {
            let row = &self.operations[*at].row;
            row.state == State::Delayed && row.run_at_ms <= now_ms
        });
        due.sort_by_key(|at| (self.operations[*at].row.run_at_ms, *at));
        for at in due {
            self.due(at);
        }
        (0..limit).map_while(|_| self.take_one(per_lane, lease_ms, now_ms)).collect()
    }

    fn take_one(&mut self, per_lane: usize, lease_ms: u64, now_ms: i64) -> Option<Taken> {
        let open = self.turns.iter().filter(|(lane, _)| self.count(lane, State::Ready) > 0);
        let open = open.filter(|(lane, _)| self.count(lane, State::Running) < per_lane);
        let (lane, _) = open.min_by_key(|(lane, turn)| (self.count(lane, State::Running), **turn))?;
        let lane = Arc::clone(lane);
        let at = self.first(|one| one.queued.lane == lane && one.row.state == State::Ready)?;
        self.put(at, State::Running);
        let expires_ms = self.clock_ms + lease_ms;
        let one = &mut self.operations[at];
        one.row.attempt += 1;
        one.row.started_ms = now_ms;
        one.lease = Some(Lease { expires_ms, knew: one.row.cancelled });
        Some((Attempt { id: Arc::clone(&one.uid), number: one.row.attempt }, one.revision, one.standing()))
    }

    pub(crate) fn next_due(&self) -> Option<i64> {
        let delayed = self.operations.iter().filter(|one| one.row.state == State::Delayed);
        delayed.map(|one| one.row.run_at_ms).min()
    }

    pub(crate) fn next_expiry(&self) -> Option<u64> {
        let held = self.operations.iter().filter(|one| self.is_held(one));
        held.filter_map(|one| Some(one.lease?.expires_ms - self.clock_ms)).min()
    }

    /// The operation whose current attempt this is.
    pub(crate) fn current(&mut self, attempt: &Attempt) -> Option<usize> {
        let at = self.find(&attempt.id).filter(|at| {
            let row = &self.operations[*at].row;
            row.state == State::Running && row.attempt == attempt.number
        });
        self.fenced += u64::from(at.is_none());
        at
    }

    pub(crate) fn renew(&mut self, attempt: &Attempt, lease_ms: u64) -> Renewal {
        let expires_ms = self.clock_ms + lease_ms;
        let Some(at) = self.current(attempt) else { return Renewal::Lost };
        if !self.is_held(&self.operations[at]) {
            self.fenced += 1;
            return Renewal::Lost;
        }
        let one = &mut self.operations[at];
        one.lease = one.lease.map(|lease| Lease { expires_ms, ..lease });
        if one.row.cancelled { Renewal::Cancelled } else { Renewal::Held }
    }

    /// Whether the entry counts.
    pub(crate) fn journal(&mut self, attempt: &Attempt, entry: &StepRow) -> bool {
        let Some(at) = self.current(attempt) else { return false };
        if !self.is_held(&self.operations[at]) {
            self.fenced += 1;
            return false;
        }
        let one = &mut self.operations[at];
        let entry = StepRow { attempt: attempt.number, ..entry.clone() };
        if matches!(entry.state, StepState::Done | StepState::Undone) {
            one.row.lost = 0;
        }
        match one.steps.iter_mut().find(|known| known.step == entry.step) {
            Some(known) => *known = entry,
            None => one.steps.push(entry),
        }
        true
    }

    /// Whether this end is none, as the holder did not know that the operation is to be undone.
    pub(crate) fn takes_back(&self, at: usize, settlement: &Settlement) -> bool {
        let one = &self.operations[at];
        let dies = matches!(settlement, Settlement::End { state: State::Dead, .. });
        dies && one.row.undoing.is_none() && one.is_news()
    }

    /// What becomes of the row of an attempt that is the current one, and whose object's write, if any, holds.
    pub(crate) fn settle(&mut self, at: usize, settlement: &Settlement) {
        let takes_back = self.takes_back(at, settlement);
        let one = &mut self.operations[at];
        let news = one.is_news();
        let (state, run_at_ms) = match settlement {
            Settlement::Retry { run_at_ms, note, undoing } => {
                one.row.failures += 1;
                one.row.undoing = undoing.clone().or_else(|| one.row.undoing.take());
                one.note(note.clone());
                (State::Delayed, *run_at_ms)
            }
            Settlement::Later { run_at_ms } | Settlement::Unbegun { run_at_ms } => (State::Delayed, *run_at_ms),
            Settlement::End { state, note, .. } => {
                one.row.failures += u32::from(note.is_some());
                if let Some(note) = note {
                    one.note(note.clone());
                }
                (if takes_back { State::Delayed } else { *state }, one.row.run_at_ms)
            }
            Settlement::Bury { note } => {
                one.row.failures += 1;
                one.note(note.clone());
                (State::Dead, one.row.run_at_ms)
            }
        };
        if state == State::Delayed {
            if !matches!(settlement, Settlement::Unbegun { .. }) {
                one.row.lost = 0;
            }
            one.row.run_at_ms = if news { 0 } else { run_at_ms };
        }
        self.put(at, state);
    }
}
