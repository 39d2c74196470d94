//! One batch of jobs, from the queue to the answers.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::Connection;

use super::batch::{Broken, Plan};
use super::queue::{Job, Reply};
use super::sessions::{Batch, Sessions};
use crate::error::StoreError;
use crate::hub::Hub;
use crate::message::Appended;
use crate::object::{Object, Revision};
use crate::watch::Change;

/// See the module.
#[derive(Debug)]
pub(super) struct Work<'h> {
    plan: Plan<'h>,
    objects: Vec<Written>,
    /// The jobs that are not object writes, and what came of them so far.
    others: Vec<Job>,
    outcomes: Vec<Outcome>,
    dirty: HashSet<Arc<str>>,
    touched: Batch,
    freed: Vec<i64>,
}

/// An object write and what came of it.
type Written = (Reply<Arc<Object>>, Result<Arc<Object>, StoreError>);

#[derive(Debug)]
enum Outcome {
    Appended(Vec<Appended>),
    Raised(u64),
    Done,
}

/// Who is to be told what, once the batch is committed.
#[derive(Debug)]
pub(super) enum Answer {
    Object(Reply<Arc<Object>>, Result<Arc<Object>, StoreError>),
    Appended(Reply<Vec<Appended>>, Vec<Appended>),
    Raised(Reply<u64>, u64),
    Done(Reply<()>),
    /// Answered when the compaction is complete.
    Compact(Revision, Reply<()>),
}

impl Answer {
    /// A caller that went away does not undo its write.
    pub(super) fn send(self) {
        match self {
            Self::Object(reply, outcome) => drop(reply.send(outcome)),
            Self::Appended(reply, numbers) => drop(reply.send(Ok(numbers))),
            Self::Raised(reply, value) => drop(reply.send(Ok(value))),
            Self::Done(reply) | Self::Compact(_, reply) => drop(reply.send(Ok(()))),
        }
    }
}

impl Job {
    /// Tells the caller that nothing was done.
    pub(super) fn fail(self, error: &StoreError) {
        match self {
            Self::Write { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Append { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Raise { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::RunRows { reply } | Self::Drop { reply, .. } | Self::Compact { reply, .. } => {
                drop(reply.send(Err(error.clone())));
            }
        }
    }
}

impl<'h> Work<'h> {
    /// Checks the object writes against what is published and each other; nothing touches the disk yet.
    pub(super) fn new(hub: &'h Hub, jobs: Vec<Job>, dirty: HashSet<Arc<str>>) -> Self {
        let (mut plan, mut objects, mut others) = (Plan::new(hub), Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Write { write, meta, reply } => objects.push((reply, plan.write(&write, meta))),
                other => others.push(other),
            }
        }
        Self { plan, objects, others, outcomes: Vec::new(), dirty, touched: Batch::new(), freed: Vec::new() }
    }

    /// Writes everything, inside the caller's transaction.
    pub(super) fn apply(&mut self, connection: &Connection, sessions: &Sessions) -> Result<(), Broken> {
        self.plan.apply(connection)?;
        sessions.write_rows(connection, &mut self.touched, &self.dirty)?;
        for job in &self.others {
            let outcome = match job {
                Job::Append { append, .. } => {
                    let (numbers, freed) = sessions.append(connection, &mut self.touched, append)?;
                    self.freed.extend(freed);
                    Outcome::Appended(numbers)
                }
                Job::Drop { session, .. } => {
                    self.freed.extend(sessions.drop_session(connection, &mut self.touched, session)?);
                    Outcome::Done
                }
                Job::Raise { name, .. } => {
                    let raise = "INSERT INTO counters VALUES (?1, 1)
                                 ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value";
                    Outcome::Raised(connection.prepare_cached(raise)?.query_row([name], |row| row.get(0))?)
                }
                Job::Write { .. } | Job::RunRows { .. } | Job::Compact { .. } => Outcome::Done,
            };
            self.outcomes.push(outcome);
        }
        Ok(())
    }

    /// The batch is committed: what is to be published, and who is to be told.
    pub(super) fn settle(self) -> (Vec<Arc<Change>>, Batch, Vec<i64>, Vec<Answer>) {
        let objects = self.objects.into_iter().map(|(reply, outcome)| Answer::Object(reply, outcome));
        let others = self.others.into_iter().zip(self.outcomes).filter_map(|pair| match pair {
            (Job::Append { reply, .. }, Outcome::Appended(numbers)) => Some(Answer::Appended(reply, numbers)),
            (Job::Raise { reply, .. }, Outcome::Raised(value)) => Some(Answer::Raised(reply, value)),
            (Job::Compact { floor, reply }, _) => Some(Answer::Compact(floor, reply)),
            (Job::RunRows { reply } | Job::Drop { reply, .. }, _) => Some(Answer::Done(reply)),
            (Job::Append { .. } | Job::Raise { .. } | Job::Write { .. }, _) => None,
        });
        let answers = objects.chain(others).collect();
        (self.plan.into_changes(), self.touched, self.freed, answers)
    }

    /// The batch is rolled back: everybody is told, since what one was refused for may not have happened either. Gives
    /// the run rows back.
    pub(super) fn fail(self, error: &StoreError) -> HashSet<Arc<str>> {
        for (reply, _) in self.objects {
            reply.send(Err(error.clone())).ok();
        }
        self.others.into_iter().for_each(|job| job.fail(error));
        self.dirty
    }
}
