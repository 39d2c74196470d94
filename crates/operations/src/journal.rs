//! The step journal as one attempt sees it.
//!
//! A step that was undone may be done again, after a replay. To those who have its effects that is another step: from the
//! second time on its name in the journal, and in its effects' keys, is `NAME~2`, `NAME~3` ...

use std::sync::Arc;

use mainstay_runtime::operation::{EffectKey, MAX_STEPS, Step};
use mainstay_runtime::{Class, Doing, Failure, Reason};
use mainstay_store::operation::{Attempt, Queue, StepRow, StepState};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

/// The most bytes that a step may be done with.
pub(crate) const MAX_OUTPUT: usize = 64 << 10;

/// What an operation has that is carried out beside no other of those that their workers may have died of.
pub(crate) type Alone = Option<OwnedSemaphorePermit>;

/// See the module.
pub(crate) struct Journal<'a> {
    queue: &'a dyn Queue,
    attempt: &'a Attempt,
    rows: Vec<StepRow>,
    alone: Alone,
}

/// One time that a step is, or was, carried out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Round {
    /// Its name in the journal.
    pub(crate) name: Arc<str>,
    /// How far it is; `None` before the first entry.
    pub(crate) state: Option<StepState>,
    /// What it was done with.
    pub(crate) output: Value,
}

impl<'a> Journal<'a> {
    /// What earlier attempts have written.
    pub(crate) fn new(queue: &'a dyn Queue, attempt: &'a Attempt, rows: Vec<StepRow>, alone: Alone) -> Self {
        Self { queue, attempt, rows, alone }
    }

    /// Whether a step may have an effect now.
    pub(crate) fn is_touched(&self) -> bool {
        self.rows.iter().any(|row| row.state != StepState::Undone)
    }

    pub(crate) fn into_rows(self) -> Vec<StepRow> {
        self.rows
    }

    /// The newest time of a step, which may have been undone.
    fn newest(&self, step: &str) -> Option<(u32, &StepRow)> {
        (1..).map_while(|number| Some((number, self.row(&named(step, number))?))).last()
    }

    fn row(&self, name: &str) -> Option<&StepRow> {
        self.rows.iter().find(|row| *row.step == *name)
    }

    /// The time of a step that counts now: the newest, or the next when that was undone.
    pub(crate) fn round(&self, step: &str) -> Round {
        match self.newest(step) {
            Some((number, row)) if row.state == StepState::Undone => Round::at(named(step, number + 1)),
            Some((_, row)) => Round {
                name: row.step.clone(),
                state: Some(row.state),
                output: serde_json::from_str(&row.output).unwrap_or(Value::Null),
            },
            None => Round::at(step.into()),
        }
    }

    /// Enters how far a step is.
    ///
    /// # Errors
    /// Fenced when the attempt is over; Terminal(TooLarge) when the output is; what the store refuses.
    pub(crate) async fn enter(&mut self, round: &mut Round, state: StepState, output: Value) -> Result<(), Failure> {
        let text = output.to_string();
        if text.len() > MAX_OUTPUT {
            let what = format!("step {}: its output has {} bytes, more than {MAX_OUTPUT}", round.name, text.len());
            return Err(Failure::new(Class::Terminal(Reason::TooLarge), what));
        }
        let entry =
            StepRow { step: round.name.clone(), state, attempt: self.attempt.number, output: text.as_str().into() };
        self.queue.journal(self.attempt, entry.clone()).await.doing("write the step journal")?;
        match self.rows.iter_mut().find(|row| row.step == entry.step) {
            Some(row) => *row = entry,
            None => self.rows.push(entry),
        }
        // The row says the same: whose steps get done does not kill its workers.
        if matches!(state, StepState::Done | StepState::Undone) {
            self.alone = None;
        }
        (round.state, round.output) = (Some(state), output);
        Ok(())
    }

    /// What the effects of a step carry.
    pub(crate) fn key(&self, round: &Round) -> EffectKey {
        self.keyed(round.name.clone())
    }

    /// What the effects that take it back carry.
    pub(crate) fn undo_key(&self, round: &Round) -> EffectKey {
        self.keyed(format!("undo/{}", round.name).into())
    }

    fn keyed(&self, step: Arc<str>) -> EffectKey {
        EffectKey { operation: self.attempt.id.clone(), step, token: self.attempt.number }
    }

    /// Whether the steps are such as can be kept apart, and include all that the journal knows.
    ///
    /// # Errors
    /// Terminal: they are not those that were begun.
    pub(crate) fn check(&self, steps: &[Box<dyn Step>]) -> Result<(), Failure> {
        let refuse = |what: String| Err(Failure::new(Class::Terminal(Reason::Invalid), what));
        if steps.len() > MAX_STEPS {
            return refuse(format!("{} steps are more than {MAX_STEPS}", steps.len()));
        }
        for (at, step) in steps.iter().enumerate() {
            let name = step.name();
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
                return refuse(format!("{name:?} cannot be a step's name: lower-case letters, digits and dashes"));
            }
            if steps[..at].iter().any(|before| before.name() == name) {
                return refuse(format!("two steps have the name {name}"));
            }
        }
        let strange = self.rows.iter().find(|row| {
            let step = row.step.split('~').next().unwrap_or_default();
            steps.iter().all(|known| known.name() != step)
        });
        strange.map_or(Ok(()), |row| refuse(format!("the journal has step {}, which this handler has not", row.step)))
    }
}

impl Round {
    fn at(name: Arc<str>) -> Self {
        Self { name, state: None, output: Value::Null }
    }
}

fn named(step: &str, number: u32) -> Arc<str> {
    if number == 1 { step.into() } else { format!("{step}~{number}").into() }
}
