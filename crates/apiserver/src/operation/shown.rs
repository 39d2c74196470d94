//! How far an operation is, as those see it who read it: its row and its journal, in its status.

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use mainstay_api::operation::{AttemptRecord, OperationPhase, OperationStatus, StepRecord, StepRecordState};
use mainstay_runtime::Timestamp;
use mainstay_store::operation::{Note, Row, Standing, State, StepRow, StepState};
use mainstay_store::{Object, StoreError};
use std::sync::Arc;

use super::has_ended;
use crate::object;
use crate::server::ApiServer;
use crate::status::{ApiError, ApiResult};

/// A time that the queue keeps, in milliseconds since 1970; 0 is none.
pub(crate) fn time(at_ms: i64) -> Option<MicroTime> {
    Timestamp::from_millisecond(at_ms).ok().filter(|_| at_ms != 0).map(MicroTime::from)
}

/// What row and journal say, whatever the phase.
pub(crate) fn ledger(standing: &Standing) -> OperationStatus {
    let Standing { row, steps } = standing;
    OperationStatus {
        attempts: row.attempt,
        failures: row.failures,
        started_at: time(row.started_ms),
        steps: newest(steps).into_iter().map(step).collect(),
        history: row.history.iter().map(record).collect(),
        ..OperationStatus::default()
    }
}

/// The newest time of each step, in the steps' order. One that was undone and done again is `NAME~2`, `NAME~3` ... in the
/// journal; of all these the status has one, and so no more than there may be steps.
fn newest(steps: &[StepRow]) -> Vec<&StepRow> {
    let mut newest: Vec<&StepRow> = Vec::new();
    for row in steps {
        match newest.iter_mut().find(|known| plain(known) == plain(row)) {
            Some(known) => *known = row,
            None => newest.push(row),
        }
    }
    newest
}

fn plain(row: &StepRow) -> &str {
    row.step.split_once('~').map_or(&*row.step, |(name, _)| name)
}

fn step(row: &StepRow) -> StepRecord {
    let state = match row.state {
        StepState::Intent => StepRecordState::Intent,
        StepState::Done => StepRecordState::Done,
        StepState::Undoing => StepRecordState::Undoing,
        StepState::Undone => StepRecordState::Undone,
    };
    StepRecord { name: row.step.to_string(), state, attempt: row.attempt }
}

fn record(note: &Note) -> AttemptRecord {
    let at = |at_ms| MicroTime::from(Timestamp::from_millisecond(at_ms).unwrap_or_default());
    AttemptRecord {
        attempt: note.attempt,
        started_at: at(note.started_ms),
        finished_at: at(note.ended_ms),
        reason: note.reason.clone(),
        message: note.message.clone(),
    }
}

/// The status of an operation that has not ended.
fn status(standing: &Standing) -> OperationStatus {
    let row = &standing.row;
    let phase = match row.state {
        State::Running => OperationPhase::Running,
        State::Delayed | State::Blocked => OperationPhase::Waiting,
        State::Ready | State::Succeeded | State::Cancelled | State::Dead => OperationPhase::Pending,
    };
    let (reason, message) = why(row).unzip();
    OperationStatus {
        phase,
        reason: reason.map(str::to_owned),
        message,
        next_attempt_at: time(row.run_at_ms).filter(|_| row.state == State::Delayed),
        undoing: row.undoing.as_ref().map(record),
        ..ledger(standing)
    }
}

/// Why it is where it is, when that is not plain.
fn why(row: &Row) -> Option<(&'static str, String)> {
    let newest = row.history.last().filter(|note| note.attempt == row.attempt);
    if row.state == State::Blocked {
        return Some(("Blocked", "another operation with its concurrencyKey is under way".to_owned()));
    }
    if let Some(note) = &row.undoing {
        return Some(("Undoing", format!("{}: {}", note.reason, note.message)));
    }
    if row.cancelled {
        return Some(("Cancelling", "what was done is being undone".to_owned()));
    }
    match (row.state, newest) {
        (State::Ready | State::Delayed, Some(note)) => {
            Some(("Retrying", format!("attempt {} failed: {}: {}", note.attempt, note.reason, note.message)))
        }
        (State::Delayed, None) if row.attempt == 0 => Some(("NotDue", "its spec.runAt lies ahead".to_owned())),
        (State::Delayed, None) => Some(("NotYet", "it waits for the world, and looks again".to_owned())),
        _ => None,
    }
}

/// The bytes that a reader gets of each operation: the stored ones of those that have ended. One look at the queue for all.
///
/// # Errors
/// What the store refuses.
pub(crate) async fn readable(server: &ApiServer, stored: &[Arc<Object>]) -> ApiResult<Vec<Bytes>> {
    let under_way: Vec<Arc<str>> =
        stored.iter().filter(|object| !ended(object)).map(|object| object.meta.uid.clone()).collect();
    let mut standings = Vec::new();
    if !under_way.is_empty() {
        standings = server.store().operations(under_way).await.map_err(|error| unread(&error))?;
    }
    let mut standings = standings.into_iter();
    let with_row = |object: &Arc<Object>| {
        let standing = if ended(object) { None } else { standings.next().flatten() };
        standing.map_or_else(|| Ok(object.body.clone()), |standing| merged(object, &standing))
    };
    stored.iter().map(with_row).collect()
}

fn unread(error: &StoreError) -> ApiError {
    let kind = mainstay_api::operation::kind();
    ApiError::from_store(error, crate::status::About { kind: &kind, name: "" })
}

/// Whether it has ended, by what is kept beside its bytes.
pub(super) fn ended(object: &Object) -> bool {
    let phase = object.meta.fields.iter().find(|(path, _)| &**path == "status.phase");
    phase.and_then(|(_, phase)| OperationPhase::parse(phase)).is_some_and(OperationPhase::is_final)
}

fn merged(stored: &Object, standing: &Standing) -> ApiResult<Bytes> {
    let mut value = object::parse(stored)?;
    // A row that has ended is newer than the object that was read: the next look shows both.
    if has_ended(&value) || standing.row.state.is_final() {
        return Ok(stored.body.clone());
    }
    value["status"] = serde_json::to_value(status(standing)).map_err(ApiError::internal)?;
    object::to_bytes(&value)
}

#[cfg(test)]
pub(super) fn status_of(standing: &Standing) -> serde_json::Value {
    serde_json::to_value(status(standing)).unwrap_or_default()
}
