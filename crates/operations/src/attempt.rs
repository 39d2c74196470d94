//! One attempt at one operation: its steps in order, or their undoing in reverse.
//!
//! Nothing here decides what comes of a failure: that is `verdict`'s. An attempt that is told to end stops between two
//! effects, never in the middle of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::fault::{self, Point};
use mainstay_runtime::guard::Guard;
use mainstay_runtime::operation::{At, EffectKey, Handler, Progress, Step, Work};
use mainstay_runtime::{Class, Doing, Failure};
use mainstay_store::operation::StepState;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use crate::journal::{Journal, Round};

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Came {
    /// All steps are done; this is the last one's output.
    Done(Value),
    /// Nothing has an effect any more.
    Undone,
    /// The world has not got there.
    NotYet(Duration),
    /// It was told to end.
    Stopped,
    /// It failed.
    Failed(Failure),
}

/// What one attempt has.
pub(crate) struct Trying<'a> {
    pub(crate) handler: &'a dyn Handler,
    pub(crate) work: &'a Work,
    pub(crate) deadline: Instant,
    /// The attempt is to end: its worker stops, or somebody else has it.
    pub(crate) stop: CancellationToken,
    /// Also when the operation is cancelled: then its steps are to end, but not their undoing.
    pub(crate) cancelled: CancellationToken,
}

/// Why the steps were left before their end.
enum Left {
    NotYet(Duration),
    Stopped,
    Failed(Failure),
}

impl From<Failure> for Left {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Left> for Came {
    fn from(left: Left) -> Self {
        match left {
            Left::NotYet(after) => Self::NotYet(after),
            Left::Stopped => Self::Stopped,
            Left::Failed(failure) => Self::Failed(failure),
        }
    }
}

impl Trying<'_> {
    /// Carries out what is left of the steps.
    pub(crate) async fn forward(&self, journal: &mut Journal<'_>) -> Came {
        self.steps_done(journal).await.unwrap_or_else(Came::from)
    }

    /// Takes back whatever may have an effect.
    pub(crate) async fn back(&self, journal: &mut Journal<'_>) -> Came {
        self.steps_undone(journal).await.unwrap_or_else(Came::from)
    }

    fn steps(&self, journal: &Journal<'_>) -> Result<Vec<Box<dyn Step>>, Failure> {
        let steps = self.handler.steps(self.work)?;
        journal.check(&steps)?;
        Ok(steps)
    }

    async fn steps_done(&self, journal: &mut Journal<'_>) -> Result<Came, Left> {
        let mut outputs = Arc::new(BTreeMap::new());
        let mut last = Value::Null;
        for step in self.steps(journal)? {
            let mut round = journal.round(step.name());
            if round.state != Some(StepState::Done) {
                self.go_on(&self.cancelled)?;
                let span = info_span!("step", step = %round.name);
                self.one_done(&*step, journal, &mut round, &outputs).instrument(span).await?;
            }
            last = round.output;
            Arc::make_mut(&mut outputs).insert(step.name().to_owned(), last.clone());
        }
        Ok(Came::Done(last))
    }

    async fn one_done(
        &self,
        step: &dyn Step,
        journal: &mut Journal<'_>,
        round: &mut Round,
        outputs: &Arc<BTreeMap<String, Value>>,
    ) -> Result<(), Left> {
        if round.state == Some(StepState::Undoing) {
            // A replay of what could not be undone: first it is, then it is done anew.
            self.one_undone(step, journal, round, outputs).await?;
            *round = journal.round(step.name());
        }
        let in_doubt = round.state == Some(StepState::Intent);
        if !in_doubt && Guard::Intent.holds() {
            journal.enter(round, StepState::Intent, Value::Null).await?;
            fault::hit(Point::OperationAfterIntent).doing("begin a step")?;
        }
        let at = self.at(journal.key(round), outputs, &self.cancelled);
        let seen = if in_doubt && Guard::Observation.holds() { step.observe(&at).await? } else { None };
        let mut progress = match seen {
            Some(progress) => progress,
            None => step.act(&at).await?,
        };
        if fault::again(Point::OperationAfterAct).doing("end a step")? {
            progress = step.act(&at).await?;
        }
        let output = done(progress)?;
        journal.enter(round, StepState::Done, output).await?;
        fault::hit(Point::OperationAfterOutcome).doing("note a step's outcome")?;
        Ok(())
    }

    async fn steps_undone(&self, journal: &mut Journal<'_>) -> Result<Came, Left> {
        let steps = self.steps(journal)?;
        let rounds: Vec<Round> = steps.iter().map(|step| journal.round(step.name())).collect();
        let outputs: BTreeMap<String, Value> =
            steps.iter().zip(&rounds).map(|(step, round)| (step.name().to_owned(), round.output.clone())).collect();
        let outputs = Arc::new(outputs);
        for (step, mut round) in steps.iter().zip(rounds).rev().filter(|(_, round)| round.state.is_some()) {
            self.go_on(&self.stop)?;
            let span = info_span!("undo", step = %round.name);
            self.one_undone(&**step, journal, &mut round, &outputs).instrument(span).await?;
        }
        Ok(Came::Undone)
    }

    async fn one_undone(
        &self,
        step: &dyn Step,
        journal: &mut Journal<'_>,
        round: &mut Round,
        outputs: &Arc<BTreeMap<String, Value>>,
    ) -> Result<(), Left> {
        if round.state == Some(StepState::Intent) {
            // Without a trace it may still arrive: whoever would have the effect has to hear that it is taken back.
            if let Some(progress) = step.observe(&self.at(journal.key(round), outputs, &self.stop)).await? {
                round.output = done(progress)?;
            } else if !Guard::Untraced.holds() {
                return Ok(journal.enter(round, StepState::Undone, Value::Null).await?);
            }
        }
        if round.state != Some(StepState::Undoing) {
            let output = round.output.clone();
            journal.enter(round, StepState::Undoing, output).await?;
            fault::hit(Point::OperationAfterUndoing).doing("begin to undo a step")?;
        }
        let at = self.at(journal.undo_key(round), outputs, &self.stop);
        let mut progress = step.undo(&at, &round.output).await?;
        if fault::again(Point::OperationAfterUndo).doing("end the undoing of a step")? {
            progress = step.undo(&at, &round.output).await?;
        }
        done(progress)?;
        let output = round.output.clone();
        Ok(journal.enter(round, StepState::Undone, output).await?)
    }

    fn at(&self, key: EffectKey, outputs: &Arc<BTreeMap<String, Value>>, cancelled: &CancellationToken) -> At {
        At { key, outputs: outputs.clone(), deadline: self.deadline, cancelled: cancelled.clone() }
    }

    /// Between two effects: may the next be begun?
    fn go_on(&self, cancelled: &CancellationToken) -> Result<(), Left> {
        if cancelled.is_cancelled() {
            return Err(Left::Stopped);
        }
        if Instant::now() < self.deadline {
            return Ok(());
        }
        Err(Failure::new(Class::TRANSIENT, "the attempt took longer than spec.timeoutSeconds").into())
    }
}

fn done(progress: Progress) -> Result<Value, Left> {
    match progress {
        Progress::Done(output) => Ok(output),
        Progress::NotYet(after) => Err(Left::NotYet(after)),
    }
}
