//! What comes of an attempt: pure, so that every case can be tested.

use std::time::Duration;

use mainstay_runtime::{Class, Classify, Failure, Reason};
use mainstay_store::operation::{Note, Row, State};
use serde_json::Value;

use crate::attempt::Came;
use crate::policy::Policy;

/// The shortest and the longest time that "not yet" is waited for.
const NOT_YET: (Duration, Duration) = (Duration::from_millis(50), Duration::from_hours(1));
/// Undoing may fail so many times as often as doing may.
const UNDO_PATIENCE: u32 = 2;

/// What is to be settled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// Again, after a failure.
    Retry { after: Duration, failure: Failed, undoing: bool },
    /// Again, without one.
    Later { after: Duration },
    /// Again, without having been begun.
    Unbegun { after: Duration },
    /// The end.
    End { state: State, failure: Option<Failed>, said: Failed, output: Value },
}

/// A failure in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// One word.
    pub(crate) reason: String,
    /// The failure and its causes.
    pub(crate) message: String,
}

impl Failed {
    pub(crate) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: cut(message.into()) }
    }
}

impl From<&Failure> for Failed {
    fn from(failure: &Failure) -> Self {
        Self::new(failure.class().as_str(), failure.chain())
    }
}

/// What was known when the attempt began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before<'a> {
    pub(crate) row: &'a Row,
    pub(crate) max_attempts: u32,
    /// A step may have an effect, now that the attempt is over.
    pub(crate) touched: bool,
    pub(crate) policy: &'a Policy,
}

/// Whether the operation is on its way back.
pub(crate) fn is_undone(row: &Row) -> bool {
    row.cancelled || row.undoing.is_some()
}

/// What comes of it; `random` is uniform in [0, 1).
pub(crate) fn verdict(before: Before<'_>, came: Came, random: f64) -> Decision {
    match came {
        Came::Done(output) => end(State::Succeeded, Failed::new("Succeeded", ""), None, output),
        Came::Undone => undone(before.row),
        Came::NotYet(after) => Decision::Later { after: after.clamp(NOT_YET.0, NOT_YET.1) },
        Came::Stopped => Decision::Later { after: Duration::ZERO },
        Came::Failed(failure) => failed(before, &failure, random),
    }
}

fn end(state: State, said: Failed, failure: Option<Failed>, output: Value) -> Decision {
    Decision::End { state, failure, said, output }
}

fn undone(row: &Row) -> Decision {
    let said = match (&row.undoing, row.cancelled) {
        (_, true) => {
            return end(
                State::Cancelled,
                Failed::new("Cancelled", "cancelled; its steps were undone"),
                None,
                Value::Null,
            );
        }
        (Some(why), false) => Failed::new(&why.reason, format!("{}; its steps were undone", why.message)),
        (None, false) => Failed::new("Undone", ""),
    };
    end(State::Dead, said, None, Value::Null)
}

fn failed(before: Before<'_>, failure: &Failure, random: f64) -> Decision {
    let Before { row, max_attempts, touched, policy } = before;
    let failed = Failed::from(failure);
    let back = is_undone(row);
    let hopeless = matches!(failure.class(), Class::Terminal(reason) if reason != Reason::Panicked);
    let most = if back { max_attempts.saturating_mul(UNDO_PATIENCE) } else { max_attempts };
    let dead = |said: Failed| end(State::Dead, said, Some(failed.clone()), Value::Null);
    match (hopeless, back) {
        (true, true) => dead(Failed::new("UndoFailed", &*failed.message)),
        (true, false) if touched => Decision::Retry { after: Duration::ZERO, failure: failed, undoing: true },
        (true, false) => dead(failed.clone()),
        (false, _) if row.failures + 1 >= most => {
            let reason = if back { "UndoFailed" } else { "AttemptsExhausted" };
            dead(Failed::new(reason, format!("failed {} times, at last: {}", row.failures + 1, failed.message)))
        }
        (false, _) => {
            let asked = match failure.class() {
                Class::Transient { retry_after } => retry_after.unwrap_or_default().min(policy.again.cap),
                _ => Duration::ZERO,
            };
            let after = policy.again.wait(row.failures, random).max(asked);
            Decision::Retry { after, failure: failed, undoing: false }
        }
    }
}

/// The row's note of a failure.
pub(crate) fn note(row: &Row, failure: &Failed, now_ms: i64) -> Note {
    Note {
        attempt: row.attempt,
        started_ms: row.started_ms,
        ended_ms: now_ms,
        reason: failure.reason.clone(),
        message: failure.message.clone(),
    }
}

/// At most 1,024 bytes.
fn cut(mut text: String) -> String {
    const MOST: usize = 1_024;
    if text.len() > MOST {
        let end = text.floor_char_boundary(MOST - 3);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests;
