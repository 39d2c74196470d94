//! The one task that writes objects and operations: it takes what waits, and makes one statement of it.
//!
//! Of a batch whose answer was lost is found out what came of it; it is never sent again before the database has said that it
//! never was. Memory is brought forward before anybody is answered, so whoever is answered reads what it wrote.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mainstay_runtime::fault::{self, Point};
use mainstay_runtime::guard::Guard;
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;
use uuid::Uuid;

use super::batch::{Answer, Batch};
use super::claimed::ClaimedObjects;
use super::jobs::{Ask, Done, Job};
use super::link::{Failure, Link, Parameters, Session};
use super::shared::{QUEUE, REVISION, Shared};
use super::{queue, rows, schema};
use crate::error::StoreError;
use crate::given::Given;
use crate::object::{Key, Object, Revision, Write};
use crate::operation::on_disk;
use crate::watch::{Change, ChangeKind};

/// How long a batch waits for the database, and for being told what came of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

const APPLY: &str =
    "SELECT * FROM mainstay.apply_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
    $18, $19, $20, $21)";
const SETTLE: &str = "SELECT * FROM mainstay.settle_1($1)";

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    link: Link,
    /// The connection on which this process has entered.
    entered: Option<Arc<Session>>,
    claimed: ClaimedObjects,
    /// The newest revision after this process's last batch.
    last: Option<u64>,
    /// Before that batch other replicas had written.
    in_turns: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let name = format!("mainstay {} writes", shared.options.replica);
        let link = Link::new(&shared.options.address, name, &shared.connections, None);
        Self { shared, link, entered: None, claimed: ClaimedObjects::default(), last: None, in_turns: false }
    }

    /// Whether other replicas have written between the last batch and the one before.
    pub(super) const fn in_turns(&self) -> bool {
        self.in_turns
    }

    /// Carries a batch out and answers everybody.
    pub(super) async fn carry_out(&mut self, jobs: Vec<Job>) {
        match self.commit(&jobs).await {
            Ok(answer) => self.complete(jobs, answer).await,
            Err(failure) if jobs.len() > 1 && is_about_one(&failure) => {
                // One of them cannot be done; the others can.
                for job in jobs {
                    let alone = [job];
                    match self.commit(&alone).await {
                        Ok(answer) => self.complete(alone.into(), answer).await,
                        Err(failure) => refuse(alone.into(), &failure.into()),
                    }
                }
            }
            Err(failure) => {
                self.shared.heed(&failure);
                let error = failure.into();
                match &error {
                    StoreError::Full => self.shared.health.full(),
                    StoreError::Away(_) => self.shared.health.away(),
                    _ => {}
                }
                let closed = self.shared.health.is_closed();
                refuse(jobs, if closed { &StoreError::Closed } else { &error });
            }
        }
    }

    /// Sends a batch, and again if it never was, until there is an answer or patience is over.
    async fn commit(&mut self, jobs: &[Job]) -> Result<Answer, Failure> {
        let begun = Instant::now();
        loop {
            let batch = Batch::of(jobs);
            let outcome = match self.send(&batch).await {
                Err(Failure::Unknown(cause)) if !Guard::Settle.holds() => Err(Failure::Away(cause)),
                Err(Failure::Unknown(cause)) => match self.settle(batch.id, begun).await {
                    Ok(Some(answer)) => return Ok(answer),
                    Ok(None) => Err(Failure::Away(cause)),
                    // It is not known, and cannot be found out in time.
                    Err(_) => return Err(Failure::Unknown(cause)),
                },
                outcome => outcome,
            };
            if outcome.as_ref().is_err_and(schema::has_moved) {
                self.entered = None;
            }
            match outcome {
                Err(failure)
                    if is_passing(&failure) && begun.elapsed() < PATIENCE && !self.shared.health.is_closed() =>
                {
                    sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn send(&mut self, batch: &Batch) -> Result<Answer, Failure> {
        self.enter().await?;
        let (replica, term) = (&*self.shared.options.replica, self.shared.term.load(Ordering::Acquire));
        fault::hit(Point::StoreBeforeCommit).map_err(|injected| Failure::Unknown(Arc::new(injected)))?;
        let b = batch;
        let parameters: Parameters<'_> = &[
            &b.id,
            &replica,
            &term,
            &b.now_ms,
            &b.wall_ms,
            &b.segments,
            &b.kind,
            &b.resource,
            &b.namespace,
            &b.name,
            &b.expected,
            &b.need_resource,
            &b.need_namespace,
            &b.need_name,
            &b.need,
            &b.fence,
            &b.fence_term,
            &b.meta,
            &b.head,
            &b.tail,
            &b.ask,
        ];
        let row = self.link.one(APPLY, parameters).await?;
        fault::hit(Point::StoreAfterCommit).ok();
        told(&row)
    }

    /// A connection that is new may lead to another server, or to a state that is older than what clients were told.
    async fn enter(&mut self) -> Result<(), Failure> {
        let session = self.link.session().await?;
        if !self.entered.as_ref().is_some_and(|known| Arc::ptr_eq(known, &session)) {
            self.shared.enter(&self.link).await?;
            self.entered = Some(session);
        }
        Ok(())
    }

    /// What came of a batch whose answer was lost; `None` when it never was, and never will be.
    async fn settle(&mut self, id: Uuid, begun: Instant) -> Result<Option<Answer>, Failure> {
        loop {
            let asked = match self.enter().await {
                Ok(()) => self.link.one(SETTLE, &[&id]).await,
                Err(failure) => Err(failure),
            };
            match asked {
                Ok(row) => return Ok(Answer::of(&row)),
                Err(failure) if schema::has_moved(&failure) => self.entered = None,
                Err(failure) if begun.elapsed() > PATIENCE || self.shared.health.is_closed() => return Err(failure),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// The batch is committed: makes it visible, then answers.
    async fn complete(&mut self, jobs: Vec<Job>, answer: Answer) {
        let shared = Arc::clone(&self.shared);
        let written =
            answer.codes.iter().zip(&answer.revisions).filter(|(code, revision)| **code == 0 && revision.is_some());
        shared.counts.commits.fetch_add(1, Ordering::Relaxed);
        shared.counts.writes.fetch_add(written.clone().count() as u64, Ordering::Relaxed);
        shared.counts.lost.fetch_add(answer.lost, Ordering::Relaxed);
        self.in_turns = self.last.is_some_and(|last| answer.base > last);
        let last = answer.revisions.iter().flatten().max().map_or(answer.base, |last| last.cast_unsigned());
        self.last = Some(last.max(answer.base));
        let begun = Instant::now();
        let outcomes = loop {
            match self.outcomes(&jobs, &answer).await {
                Err(_) if begun.elapsed() < PATIENCE && !shared.health.is_closed() => sleep(PAUSE).await,
                outcomes => break outcomes,
            }
        };
        if written.count() > 0 {
            shared.outbound.raise(REVISION);
        }
        if answer.woken {
            shared.wake_queue();
            shared.made_ready.send_modify(|ready| *ready += made_ready(&jobs, &answer));
            shared.outbound.raise(QUEUE);
        }
        fault::hit(Point::StoreAfterPublish).ok();
        match outcomes {
            Ok(outcomes) => {
                for (job, outcome) in jobs.into_iter().zip(outcomes) {
                    job.answer(outcome);
                }
            }
            // It is committed, but who asked cannot be told with what.
            Err(error) => refuse(jobs, &StoreError::Database(Arc::new(error))),
        }
    }

    /// What each job is told, in order; memory holds it by then.
    async fn outcomes(&mut self, jobs: &[Job], answer: &Answer) -> Result<Vec<Result<Done, StoreError>>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let mut known = self.predecessors(jobs, answer).await?;
        let mut claims = queue::claims(&shared.work, answer).await?;
        for claimed in claims.iter().flat_map(|claims| &claims.claimed) {
            self.claimed.keep(&claimed.object);
        }
        let held = shared.publishing.lock().await;
        shared.catch_up(&held, Some(Revision(answer.base))).await?;
        let next = shared.hub.published().0 == answer.base;
        let changes = self.changes(jobs, answer, &mut known);
        match &changes {
            Some(changes) if next => shared.publish(&held, changes),
            // Memory went on by itself, or does not hold what was changed: then the log says it.
            _ => {
                let last = answer.revisions.iter().flatten().max().copied().unwrap_or(0);
                shared.catch_up(&held, Some(Revision(last.cast_unsigned().max(answer.base)))).await?;
            }
        }
        drop(held);
        let mut outcomes = Vec::with_capacity(jobs.len());
        for (at, job) in jobs.iter().enumerate() {
            outcomes.push(self.outcome((&job.ask, at), answer, &mut known, &mut claims).await?);
        }
        Ok(outcomes)
    }

    /// The versions before those of this batch, of objects that memory does not hold.
    async fn predecessors(&mut self, jobs: &[Job], answer: &Answer) -> Result<HashMap<i64, Arc<Object>>, StoreError> {
        let elsewhere = |(job, _): &(&Job, &Option<i64>)| write(&job.ask).is_some_and(|w| on_disk(&w.key().resource));
        let wanted: Vec<i64> = jobs
            .iter()
            .zip(&answer.previous)
            .filter(elsewhere)
            .filter_map(|(_, previous)| *previous)
            .filter(|previous| previous.cast_unsigned() <= answer.base)
            .collect();
        let mut known = HashMap::new();
        let others = self.claimed.take(wanted, &mut known);
        let found = rows::versions(&self.shared.work, &others).await?;
        known.extend(found.into_iter().map(|object| (object.revision.0.cast_signed(), object)));
        Ok(known)
    }

    /// What the batch changed; `known` gets its objects by their revisions. `None` when a predecessor is not known.
    fn changes(
        &self,
        jobs: &[Job],
        answer: &Answer,
        known: &mut HashMap<i64, Arc<Object>>,
    ) -> Option<Vec<Arc<Change>>> {
        let mut changes = Vec::new();
        let mut complete = true;
        for (at, job) in jobs.iter().enumerate() {
            let (Some(write), Some(revision)) = (write(&job.ask), answer.revisions[at]) else { continue };
            let kind = match write {
                Write::Create { .. } => ChangeKind::Created,
                Write::Update { .. } => ChangeKind::Updated,
                Write::Delete { .. } => ChangeKind::Deleted,
            };
            let previous = answer.previous[at].and_then(|before| self.version(write.key(), before, known));
            complete &= previous.is_some() || kind == ChangeKind::Created;
            let key = self.shared.hub.objects().intern(write.key());
            let change = Change::stamp(kind, key, write.draft(), Revision(revision.cast_unsigned()), previous);
            known.insert(revision, Arc::clone(&change.object));
            changes.push(Arc::new(change));
        }
        complete.then_some(changes)
    }

    fn version(&self, key: &Key, revision: i64, known: &HashMap<i64, Arc<Object>>) -> Option<Arc<Object>> {
        let in_memory = || self.shared.hub.get(key).filter(|object| object.revision.0.cast_signed() == revision);
        known.get(&revision).cloned().or_else(in_memory)
    }

    async fn outcome(
        &self,
        (ask, at): (&Ask, usize),
        answer: &Answer,
        known: &mut HashMap<i64, Arc<Object>>,
        claims: &mut Option<crate::operation::Claims>,
    ) -> Result<Result<Done, StoreError>, StoreError> {
        let code = answer.codes.get(at).copied().unwrap_or(-1);
        Ok(match (code, ask) {
            (0, Ask::Claim(_)) => Ok(Done::Claims(claims.take().unwrap_or_default())),
            (0, Ask::Journal { .. } | Ask::PutOff { .. }) | (7, _) => Ok(Done::Rows),
            (0, Ask::Write { .. } | Ask::End { .. }) => {
                let made = answer.revisions[at].and_then(|revision| known.get(&revision).cloned());
                made.map(Done::Object).ok_or(StoreError::Missing)
            }
            (1 | 3, Ask::Write { write, .. } | Ask::End { write, .. }) => {
                let revision = answer.previous[at].unwrap_or(0);
                let current = match self.version(write.key(), revision, known) {
                    Some(current) => Some(current),
                    None => rows::versions(&self.shared.work, &[revision]).await?.pop(),
                };
                match (current, code) {
                    (Some(current), 1) => Err(StoreError::Exists(current)),
                    (Some(current), _) => Err(StoreError::Conflict(current)),
                    (None, _) => Err(StoreError::Missing),
                }
            }
            (4, Ask::Write { write, .. }) => {
                let unmet = write.requires().map_or_else(|| write.key().clone(), |required| required.key.clone());
                Err(StoreError::Unmet(unmet))
            }
            (6, Ask::Write { given: Given { fence: Some(fence), .. }, .. }) => Err(StoreError::Deposed(fence.clone())),
            (8, Ask::Write { write, given, .. }) => {
                let unmet = given.requires.as_ref().map_or_else(|| write.key(), |required| &required.key);
                Err(StoreError::Unmet(unmet.clone()))
            }
            (5, Ask::Journal { attempt, .. } | Ask::PutOff { attempt, .. } | Ask::End { attempt, .. }) => {
                self.shared.counts.fenced.fetch_add(1, Ordering::Relaxed);
                Err(StoreError::Fenced(attempt.clone()))
            }
            _ => Err(StoreError::Missing),
        })
    }
}

/// The write that is asked for, if it is one.
fn write(ask: &Ask) -> Option<&Write> {
    match ask {
        Ask::Write { write, .. } | Ask::End { write, .. } => Some(write),
        Ask::Claim(_) | Ask::Journal { .. } | Ask::PutOff { .. } => None,
    }
}

/// How many operations a batch that made any ready has made so: those that it created are known, of others it is that there are.
fn made_ready(jobs: &[Job], answer: &Answer) -> u64 {
    let created = jobs.iter().zip(&answer.codes).filter(|(job, code)| **code == 0 && is_created_ready(&job.ask));
    (created.count() as u64).max(1)
}

fn is_created_ready(ask: &Ask) -> bool {
    let Ask::Write { write: Write::Create { draft, .. }, .. } = ask else { return false };
    draft.queued.as_deref().is_some_and(|queued| queued.run_at_ms <= 0)
}

fn told(row: &Row) -> Result<Answer, Failure> {
    let malformed = || std::io::Error::new(std::io::ErrorKind::InvalidData, "the answer to a batch");
    Answer::of(row).ok_or_else(|| Failure::Unknown(Arc::new(malformed())))
}

/// Whether one of the items is at fault.
fn is_about_one(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(_)) && !is_passing(failure) && !schema::is_replaced(failure)
}

/// Whether it may be otherwise in a moment, and nothing was done.
fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Away(_) => true,
        Failure::Unknown(_) => false,
        Failure::Refused(_) => {
            schema::has_moved(failure) || matches!(StoreError::from(failure.clone()), StoreError::Busy)
        }
    }
}

fn refuse(jobs: Vec<Job>, error: &StoreError) {
    for job in jobs {
        job.answer(Err(error.clone()));
    }
}
