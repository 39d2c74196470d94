//! What a replica has written and said of operations: in batches, each carried out whole, at most once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::Word;
use super::database::State;
use super::replica::Replica;
use super::session::Lost;
use crate::error::StoreError;
use crate::given::Given;
use crate::object::{Object, Revision, Write};
use crate::operation::{Attempt, Claim, Claimed, Claims, OPERATIONS, Queued, Settlement, StepRow};
use crate::watch::ChangeKind;

/// How long a batch waits for the database, and for being told what came of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// Jobs that make a batch.
pub(super) const BATCH: usize = 64;

/// Every such write is lost, where what is answered is not kept.
const LOST: u64 = 40;

/// Which batch: the replica, its term, and its number.
pub(super) type Batch = (Arc<str>, u64, u64);

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    Write { given: Given, write: Write },
    Claim(Claim),
    Journal { attempt: Attempt, entry: StepRow },
    Settle { attempt: Attempt, settlement: Settlement },
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) enum Done {
    Object(Arc<Object>),
    Claims(Claims),
    Rows,
}

pub(super) type Outcome = Result<Done, StoreError>;

/// What came of a batch, and which revision it led to.
pub(super) type Answer = (Vec<Outcome>, Revision);

pub(super) struct Job {
    pub(super) ask: Ask,
    pub(super) reply: oneshot::Sender<Outcome>,
}

impl State {
    /// A batch that has come. `None` when it was said before that it never would.
    fn apply(&mut self, batch: Batch, asks: &[Ask]) -> Option<Answer> {
        if self.checks.void && self.batches.contains_key(&batch) {
            return None;
        }
        let (replica, term, _) = &batch;
        let answer = if self.replicas.get(replica) == Some(term) {
            let replica = Arc::clone(replica);
            let outcomes = asks.iter().map(|ask| self.carry_out(ask, &replica)).collect();
            (outcomes, self.log.newest())
        } else {
            // Another process has this one's name.
            (asks.iter().map(|_| Err(StoreError::Closed)).collect(), self.log.newest())
        };
        self.batches.insert(batch, Some(answer.clone()));
        Some(answer)
    }

    /// What came of a batch. One that is not there yet will never be.
    fn settled(&mut self, batch: Batch) -> Option<Answer> {
        self.batches.entry(batch).or_default().clone()
    }

    fn carry_out(&mut self, ask: &Ask, replica: &Arc<str>) -> Outcome {
        match ask {
            Ask::Write { given, write } => {
                if let Some(fence) = given.fence.as_ref().filter(|fence| self.checks.fence && !self.leases.holds(fence))
                {
                    return Err(StoreError::Deposed(fence.clone()));
                }
                self.log.meets(given, write)?;
                self.log.judge(write)?;
                let object = self.make(write);
                if !self.checks.durable && object.revision.0.is_multiple_of(LOST) && *object.key.resource != *OPERATIONS
                {
                    self.log.forget();
                }
                Ok(Done::Object(object))
            }
            Ask::Claim(claim) => Ok(Done::Claims(self.claim(claim, replica))),
            Ask::Journal { attempt, entry } => {
                if self.backlog.journal(attempt, entry) || !self.checks.attempt {
                    return Ok(Done::Rows);
                }
                Err(StoreError::Fenced(attempt.clone()))
            }
            Ask::Settle { attempt, settlement } => self.settle(attempt, settlement),
        }
    }

    /// Makes a write that was judged; an operation's row follows it.
    fn make(&mut self, write: &Write) -> Arc<Object> {
        let change = self.log.make(write);
        if *change.object.key.resource == *OPERATIONS {
            self.turns += 1;
            let uid = &change.object.meta.uid;
            if change.kind == ChangeKind::Deleted {
                self.orders.remove(uid);
                if let Some(at) = self.backlog.find(uid) {
                    self.backlog.forget(at);
                }
            } else {
                self.orders.insert(Arc::clone(uid), change.object.key.clone());
                self.follow(&change.object, write.draft().queued.as_deref());
            }
        }
        Arc::clone(&change.object)
    }

    fn follow(&mut self, object: &Object, queued: Option<&Queued>) {
        let Some(at) = self.backlog.find(&object.meta.uid) else {
            if let Some(queued) = queued {
                self.backlog.enqueue(Arc::clone(&object.meta.uid), queued.clone(), object.revision);
            }
            return;
        };
        self.backlog.operations[at].revision = object.revision;
        let Some(queued) = queued else { return };
        if queued.replays > self.backlog.operations[at].queued.replays {
            self.backlog.replay(at);
            self.backlog.operations[at].queued.replays = queued.replays;
        }
        if queued.cancelled && !self.backlog.operations[at].row.cancelled {
            self.backlog.cancel(at);
        }
    }

    fn claim(&mut self, claim: &Claim, replica: &Arc<str>) -> Claims {
        let lease_ms = u64::try_from(claim.lease.as_millis()).unwrap_or(u64::MAX / 4);
        let lease_ms = if self.checks.expiry { lease_ms } else { u64::MAX / 4 };
        let lost = self.backlog.lost;
        let taken = self.backlog.claim((claim.limit, claim.per_lane), lease_ms, claim.now_ms);
        // There may be more than this claim took.
        self.turns += u64::from(self.backlog.lost > lost && taken.len() == claim.limit);
        let mut claimed = Vec::new();
        for (attempt, _, standing) in taken {
            self.holders.insert(Arc::clone(&attempt.id), Arc::clone(replica));
            let object = self.orders.get(&attempt.id).and_then(|key| self.log.current(key)).cloned();
            claimed.extend(object.map(|object| Claimed { attempt, object, standing, waited: Duration::ZERO }));
        }
        let next_expiry = self.backlog.next_expiry().map(Duration::from_millis);
        Claims { claimed, next_due_ms: self.backlog.next_due(), next_expiry }
    }

    fn settle(&mut self, attempt: &Attempt, settlement: &Settlement) -> Outcome {
        let current = self.backlog.current(attempt);
        let found = if self.checks.attempt { current } else { self.backlog.find(&attempt.id) };
        let Some(at) = found else { return Err(StoreError::Fenced(attempt.clone())) };
        let Settlement::End { write, .. } = settlement else {
            self.turns += 1;
            self.backlog.settle(at, settlement);
            return Ok(Done::Rows);
        };
        if self.backlog.takes_back(at, settlement) {
            self.turns += 1;
            self.backlog.settle(at, settlement);
            return Ok(Done::Rows);
        }
        if self.orders.get(&attempt.id) != Some(write.key()) {
            return Err(StoreError::Missing);
        }
        self.log.judge(write)?;
        if !matches!(**write, Write::Delete { .. }) {
            self.backlog.settle(at, settlement);
        }
        Ok(Done::Object(self.make(write)))
    }
}

/// Works until nobody can ask any more.
pub(super) async fn run(replica: Arc<Replica>, mut jobs: mpsc::Receiver<Job>) {
    let (mut batch, mut number) = (Vec::new(), 0);
    while jobs.recv_many(&mut batch, BATCH).await > 0 {
        let jobs = std::mem::take(&mut batch);
        let asks: Arc<[Ask]> = jobs.iter().map(|job| job.ask.clone()).collect();
        let outcomes = match commit(&replica, &asks, &mut number).await {
            Ok(answer) => complete(&replica, answer).await,
            Err(lost) => {
                replica.lost(lost);
                Err(lost.into())
            }
        };
        match outcomes {
            Ok(outcomes) => jobs.into_iter().zip(outcomes).for_each(|(job, outcome)| drop(job.reply.send(outcome))),
            Err(error) => jobs.into_iter().for_each(|job| drop(job.reply.send(Err(error.clone())))),
        }
    }
}

/// Sends a batch, and again if it never was, until there is an answer or patience is over.
async fn commit(replica: &Arc<Replica>, asks: &Arc<[Ask]>, number: &mut u64) -> Result<Answer, Lost> {
    let begun = Instant::now();
    loop {
        *number += 1;
        let batch = (Arc::clone(&replica.name), replica.term, *number);
        let (id, all) = (batch.clone(), Arc::clone(asks));
        let sent = replica.session.word(Word::Batch, move |state| state.apply(id, &all)).await;
        let lost = match sent {
            Ok(Some(answer)) => return Ok(answer),
            Err(Lost::Unknown) if replica.checks.settle => match settle(replica, batch, begun).await? {
                Some(answer) => return Ok(answer),
                None => Lost::Away,
            },
            // Also, without that check, what may have been carried out.
            Ok(None) | Err(_) => Lost::Away,
        };
        if begun.elapsed() >= PATIENCE || replica.is_closed() {
            return Err(lost);
        }
        sleep(PAUSE).await;
    }
}

/// What came of a batch whose answer was lost; `None` when it never was, and never will be.
async fn settle(replica: &Arc<Replica>, batch: Batch, begun: Instant) -> Result<Option<Answer>, Lost> {
    loop {
        let id = batch.clone();
        match replica.session.word(Word::Settle, move |state| state.settled(id)).await {
            Ok(answer) => return Ok(answer),
            Err(_) if begun.elapsed() > PATIENCE || replica.is_closed() => return Err(Lost::Unknown),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// The batch is committed: memory is brought forward, then everybody is answered.
async fn complete(replica: &Arc<Replica>, (outcomes, upto): Answer) -> Result<Vec<Outcome>, StoreError> {
    if outcomes.iter().any(|outcome| matches!(outcome, Err(StoreError::Closed))) {
        replica.close();
    }
    let begun = Instant::now();
    loop {
        match replica.catch_up(Some(upto)).await {
            Ok(()) => return Ok(outcomes),
            Err(_) if begun.elapsed() < PATIENCE && !replica.is_closed() => sleep(PAUSE).await,
            // It is committed, but who asked cannot be told with what.
            Err(_) => return Err(Lost::Unknown.into()),
        }
    }
}
