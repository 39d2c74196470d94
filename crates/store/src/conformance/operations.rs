//! Random histories of the queue, step by step, against the model: in pairs that may share a transaction, with leases
//! that expire, reopenings and crashes. In the end everything that has not ended is claimed, and ends.

mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};

use super::backlog::{Backlog, Taken};
use super::{Fixture, Outcome, draft, ensure, text};
use crate::object::{Draft, Key, Meta, Revision, Write};
use crate::operation::{Attempt, Claim, Claims, Note, OPERATIONS, Queued, Renewal, Settlement, State, StepRow};
use crate::{Store, StoreError};
pub(super) use steps::history;
use steps::{How, LEASE_MS, SLOTS, Step};

/// An outcome, as far as it can be known before.
#[derive(Debug, PartialEq)]
enum Said {
    Wrote(Revision),
    Claimed { taken: Vec<Taken>, next_due_ms: Option<i64>, next_expiry_ms: Option<u128> },
    Renewed(Vec<Renewal>),
    Done,
    Refused(&'static str),
}

struct Run<'f> {
    fixture: &'f dyn Fixture,
    store: Arc<dyn Store>,
    model: Backlog,
    revision: Revision,
    /// What there is in each slot.
    slots: BTreeMap<u8, Arc<str>>,
    /// All uids that ever were, so that those that are gone are seen to be.
    uids: Vec<Arc<str>>,
    /// Attempts that somebody was given; and those of claims that are under way.
    known: Vec<Attempt>,
    given: Vec<Attempt>,
    now_ms: i64,
}

/// What is under way: its step, what is expected of it, and its answer.
type UnderWay = (String, Said, BoxFuture<'static, Said>);

pub(super) async fn run(fixture: &dyn Fixture, history: Vec<(Step, bool)>) -> Outcome {
    let mut run = Run {
        fixture,
        store: fixture.open(),
        model: Backlog::default(),
        revision: Revision(0),
        slots: BTreeMap::new(),
        uids: Vec::new(),
        known: Vec::new(),
        given: Vec::new(),
        now_ms: 1_000,
    };
    let mut under_way: Vec<UnderWay> = Vec::new();
    for (step, together) in history {
        let said = format!("{step:?}");
        if let Some((want, answer)) = run.submit(&step) {
            under_way.push((said, want, answer));
        } else {
            run.judge(&mut under_way).await?;
            run.alone(step).await.map_err(|why| format!("at {said}: {why}"))?;
        }
        if !together {
            run.judge(&mut under_way).await?;
        }
    }
    run.judge(&mut under_way).await?;
    run.wind_up().await?;
    run.store.close().await;
    Ok(())
}

fn slot_key(slot: u8) -> Key {
    Key::new(OPERATIONS, "a", format!("n{slot}"))
}

fn content(uid: &Arc<str>, queued: Option<Queued>) -> Draft {
    Draft { meta: Arc::new(Meta { uid: Arc::clone(uid), ..Meta::default() }), queued: queued.map(Arc::new), ..draft(0) }
}

fn refusal(error: &StoreError) -> Said {
    Said::Refused(match error {
        StoreError::Exists(_) => "exists",
        StoreError::Missing => "missing",
        StoreError::Conflict(_) => "conflict",
        StoreError::Fenced(_) => "fenced",
        _ => "otherwise",
    })
}

/// The attempt's failure, for its history.
fn failed(attempt: u64) -> Note {
    Note { attempt, started_ms: 1, ended_ms: 2, reason: "Transient".into(), message: "no".into() }
}

impl Run<'_> {
    /// Begins a step of those that can be under way together; the model has done it already when it is answered.
    fn submit(&mut self, step: &Step) -> Option<(Said, BoxFuture<'static, Said>)> {
        match *step {
            Step::Enqueue { slot, lane, key, priority, ahead_ms, cancelled } => {
                let name = |yes: bool| Arc::from(if yes { "left" } else { "right" });
                let run_at_ms = if ahead_ms > 0 { self.now_ms + ahead_ms } else { 0 };
                let queued = Queued {
                    lane: name(lane),
                    handler: "noop".into(),
                    priority,
                    run_at_ms,
                    concurrency_key: key.map(name),
                    cancelled,
                    replays: 0,
                    created_ms: self.now_ms,
                };
                Some(self.enqueue(slot, queued))
            }
            Step::Touch(slot) => Some(self.update(slot, false, false, false)),
            Step::Say { slot, cancel, replay } => Some(self.update(slot, true, cancel, replay)),
            Step::Delete(slot) => Some(self.delete(slot)),
            Step::Claim { limit, per_lane } => Some(self.claim(limit, per_lane)),
            Step::Journal { ago, step, state } => {
                let attempt = self.attempt(ago);
                let entry = StepRow { step: format!("s{step}").into(), state, attempt: 0, output: "null".into() };
                let want = if self.model.journal(&attempt, &entry) { Said::Done } else { Said::Refused("fenced") };
                let store = Arc::clone(&self.store);
                Some((want, async move { said(store.journal(&attempt, entry).await, |()| Said::Done) }.boxed()))
            }
            Step::Settle { ago, how } => {
                let attempt = self.attempt(ago);
                Some(self.settle(&attempt, how))
            }
            _ => None,
        }
    }

    fn attempt(&self, ago: usize) -> Attempt {
        let nobody = Attempt { id: "nobody".into(), number: 1 };
        self.known.iter().rev().nth(ago).cloned().unwrap_or(nobody)
    }

    fn raised(&mut self) -> Revision {
        self.revision.0 += 1;
        self.revision
    }

    fn write(&self, write: Write) -> BoxFuture<'static, Said> {
        let store = Arc::clone(&self.store);
        async move { said(store.write(write).await, |object| Said::Wrote(object.revision)) }.boxed()
    }

    fn enqueue(&mut self, slot: u8, queued: Queued) -> (Said, BoxFuture<'static, Said>) {
        let uid: Arc<str> = format!("{slot}-{}", self.uids.len()).into();
        let create = Write::Create { key: slot_key(slot), draft: content(&uid, Some(queued.clone())), requires: None };
        let answer = self.write(create);
        if self.slots.contains_key(&slot) {
            return (Said::Refused("exists"), answer);
        }
        let revision = self.raised();
        self.slots.insert(slot, Arc::clone(&uid));
        self.uids.push(Arc::clone(&uid));
        self.model.enqueue(uid, queued, revision);
        (Said::Wrote(revision), answer)
    }

    /// The place of a slot's operation.
    fn at(&self, slot: u8) -> Option<usize> {
        self.model.find(self.slots.get(&slot)?)
    }

    fn update(&mut self, slot: u8, tell: bool, cancel: bool, replay: bool) -> (Said, BoxFuture<'static, Said>) {
        let Some(at) = self.at(slot) else {
            let update =
                Write::Update { key: slot_key(slot), draft: content(&"x".into(), None), expected: Revision(1) };
            return (Said::Refused("missing"), self.write(update));
        };
        if tell && replay {
            self.model.replay(at);
        }
        if tell && cancel {
            self.model.cancel(at);
        }
        let revision = self.raised();
        let one = &mut self.model.operations[at];
        let expected = std::mem::replace(&mut one.revision, revision);
        let draft = content(&one.uid, tell.then(|| one.queued.clone()));
        (Said::Wrote(revision), self.write(Write::Update { key: slot_key(slot), draft, expected }))
    }

    fn delete(&mut self, slot: u8) -> (Said, BoxFuture<'static, Said>) {
        let (at, uid) = (self.at(slot), self.slots.remove(&slot));
        let (Some(at), Some(uid)) = (at, uid) else {
            let delete =
                Write::Delete { key: slot_key(slot), draft: content(&"x".into(), None), expected: Revision(1) };
            return (Said::Refused("missing"), self.write(delete));
        };
        let expected = self.model.operations[at].revision;
        self.model.forget(at);
        let answer = self.write(Write::Delete { key: slot_key(slot), draft: content(&uid, None), expected });
        (Said::Wrote(self.raised()), answer)
    }

    fn claim(&mut self, limit: usize, per_lane: usize) -> (Said, BoxFuture<'static, Said>) {
        let lease = Duration::from_millis(LEASE_MS);
        let claim = Claim { limit, per_lane, lease, now_ms: self.now_ms };
        let taken = self.model.claim((limit, per_lane), LEASE_MS, self.now_ms);
        self.given.extend(taken.iter().map(|(attempt, ..)| attempt.clone()));
        let next_expiry_ms = self.model.next_expiry().map(u128::from);
        let want = Said::Claimed { taken, next_due_ms: self.model.next_due(), next_expiry_ms };
        let store = Arc::clone(&self.store);
        (want, async move { said(store.claim(claim).await, claimed) }.boxed())
    }

    fn settle(&mut self, attempt: &Attempt, how: How) -> (Said, BoxFuture<'static, Said>) {
        let at = self.model.current(attempt);
        let place = at.map(|at| (at, self.model.operations[at].revision));
        let slot = self.slots.iter().find(|(_, uid)| **uid == attempt.id).map_or(SLOTS, |(slot, _)| *slot);
        let settlement = match how {
            How::Retry { ahead_ms, undoing } => {
                let (note, run_at_ms) = (failed(attempt.number), self.now_ms + ahead_ms);
                Settlement::Retry { run_at_ms, undoing: undoing.then(|| note.clone()), note }
            }
            How::Later { ahead_ms } => Settlement::Later { run_at_ms: self.now_ms + ahead_ms },
            How::Unbegun { ahead_ms } => Settlement::Unbegun { run_at_ms: self.now_ms + ahead_ms },
            How::Bury => Settlement::Bury { note: failed(attempt.number) },
            How::End { state, stale, delete } => {
                let expected = place.map_or(Revision(1), |(_, revision)| revision);
                let expected = if stale { Revision(expected.0 - 1) } else { expected };
                let (key, draft) = (slot_key(slot), content(&attempt.id, None));
                let write = if delete {
                    Write::Delete { key, draft, expected }
                } else {
                    Write::Update { key, draft, expected }
                };
                let note = (state == State::Dead).then(|| failed(attempt.number));
                Settlement::End { state, note, write: Box::new(write) }
            }
        };
        let want = self.settled(place, slot, how, &settlement);
        let (store, attempt) = (Arc::clone(&self.store), attempt.clone());
        let answer = async move {
            let told = store.settle(&attempt, settlement).await;
            said(told, |object| object.map_or(Said::Done, |object| Said::Wrote(object.revision)))
        };
        (want, answer.boxed())
    }

    fn settled(&mut self, place: Option<(usize, Revision)>, slot: u8, how: How, settlement: &Settlement) -> Said {
        let Some((at, _)) = place else { return Said::Refused("fenced") };
        let How::End { stale, delete, .. } = how else {
            self.model.settle(at, settlement);
            return Said::Done;
        };
        if self.model.takes_back(at, settlement) {
            self.model.settle(at, settlement);
            return Said::Done;
        }
        if stale {
            return Said::Refused("conflict");
        }
        let revision = self.raised();
        if delete {
            self.slots.remove(&slot);
            self.model.forget(at);
        } else {
            self.model.operations[at].revision = revision;
            self.model.settle(at, settlement);
        }
        Said::Wrote(revision)
    }

    /// Waits for what is under way; then each answer, and all that can be read, is as in the model.
    async fn judge(&mut self, under_way: &mut Vec<UnderWay>) -> Outcome {
        let (mut steps, mut answers) = (Vec::new(), Vec::new());
        for (step, want, answer) in under_way.drain(..) {
            steps.push((step, want));
            answers.push(answer);
        }
        let together = steps.len();
        self.known.append(&mut self.given);
        for ((step, want), got) in steps.into_iter().zip(join_all(answers).await) {
            ensure!(got == want, "at {step}, one of {together}: got {got:?}, expected {want:?}");
        }
        self.agrees().await
    }

    /// Rows, journals, objects and figures are the model's.
    async fn agrees(&self) -> Outcome {
        let standings = self.store.operations(self.uids.clone()).await.map_err(|error| text(&error))?;
        for (uid, got) in self.uids.iter().zip(standings) {
            let want = self.model.find(uid).map(|at| self.model.operations[at].standing());
            ensure!(got == want, "{uid} is {got:?}, expected {want:?}");
        }
        for slot in 0..SLOTS {
            let got = self.store.get(&slot_key(slot)).await.map_err(|error| text(&error))?;
            let want = self.at(slot).map(|at| self.model.operations[at].revision);
            ensure!(got.as_ref().map(|object| object.revision) == want, "object {slot} is {got:?}, expected {want:?}");
        }
        let figures = self.store.queue_figures().await.map_err(|error| text(&error))?;
        let mut depth = Vec::new();
        for lane in ["left", "right"] {
            for state in [State::Ready, State::Delayed, State::Blocked, State::Running, State::Dead] {
                let count = self.model.count(lane, state) as u64;
                depth.extend((count > 0).then(|| (Arc::from(lane), state, count)));
            }
        }
        ensure!(figures.depth == depth, "figures {:?}, expected {depth:?}", figures.depth);
        let (lost, fenced) = (self.model.lost, self.model.fenced);
        ensure!((figures.lost, figures.fenced) == (lost, fenced), "{figures:?}, expected {lost} lost, {fenced} fenced");
        Ok(())
    }

    /// Steps that nothing can be under way beside.
    async fn alone(&mut self, step: Step) -> Outcome {
        match step {
            Step::Renew { ago } => {
                let attempts = vec![self.attempt(ago), self.attempt(0)];
                let want: Vec<Renewal> = attempts.iter().map(|one| self.model.renew(one, LEASE_MS)).collect();
                let got = self.store.renew(attempts, Duration::from_millis(LEASE_MS)).await;
                let got = said(got, Said::Renewed);
                ensure!(got == Said::Renewed(want), "renewed {got:?}");
            }
            Step::Later(ms) => self.now_ms += ms,
            Step::Elapse(ms) => {
                self.model.clock_ms += ms;
                tokio::time::advance(Duration::from_millis(ms)).await;
            }
            Step::Reopen => {
                self.store.close().await;
                let closed = std::mem::replace(&mut self.store, self.fixture.open());
                drop(closed);
                self.model.reopened();
            }
            _ => {
                let crashed = std::mem::replace(&mut self.store, self.fixture.crash());
                drop(crashed);
                self.model.reopened();
            }
        }
        self.agrees().await
    }

    /// Nothing is lost: whatever has not ended is claimed sooner or later, and can end.
    async fn wind_up(&mut self) -> Outcome {
        self.alone(Step::Elapse(LEASE_MS)).await?;
        self.now_ms += 1_000_000;
        for _ in 0..=self.model.operations.len() {
            let mut under_way = Vec::new();
            let before = self.known.len();
            let (want, answer) = self.claim(9, 9);
            under_way.push(("the last claims".to_owned(), want, answer));
            self.judge(&mut under_way).await?;
            for attempt in self.known.split_off(before) {
                let end = How::End { state: State::Succeeded, stale: false, delete: false };
                let (want, answer) = self.settle(&attempt, end);
                under_way.push(("the last settlements".to_owned(), want, answer));
            }
            self.judge(&mut under_way).await?;
        }
        let open = self.model.operations.iter().filter(|one| !one.row.state.is_final());
        ensure!(open.clone().count() == 0, "never claimed: {:?}", open.collect::<Vec<_>>());
        Ok(())
    }
}

/// An answer in the model's words.
fn said<T>(told: Result<T, StoreError>, of: impl FnOnce(T) -> Said) -> Said {
    told.map_or_else(|error| refusal(&error), of)
}

fn claimed(claims: Claims) -> Said {
    let taken = claims.claimed.into_iter().map(|one| (one.attempt, one.object.revision, one.standing)).collect();
    let next_expiry_ms = claims.next_expiry.map(|left| left.as_millis());
    Said::Claimed { taken, next_due_ms: claims.next_due_ms, next_expiry_ms }
}
