//! The write by which an operation's object says how it ended.

use mainstay_api::names::OPERATION_FINALIZER;
use mainstay_api::operation::{self as api, MOST_PAYLOAD, OperationPhase, OperationStatus};
use mainstay_runtime::Failure;
use mainstay_store::operation::{Ending, State};
use mainstay_store::{Object, Write};
use serde_json::Value;

use super::{left_something, shown, unreadable};
use crate::object;

/// The write that gives the object its outcome; the deletion of one that was only waited for.
///
/// # Errors
/// Terminal(Invalid), when the object cannot be read.
pub(super) fn outcome(object: &Object, ending: &Ending) -> Result<Write, Failure> {
    let mut value: Value = serde_json::from_slice(&object.body).map_err(|error| unreadable(object, error))?;
    let status = serde_json::to_value(status(ending)).map_err(|error| unreadable(object, error))?;
    value["status"] = status;
    let deleting = object::is_deleting(&value);
    if deleting && !left_something(&value) {
        release(&mut value);
    }
    let draft = object::draft_of(&api::kind(), &value).map_err(|error| unreadable(object, error))?;
    let (key, expected) = (object.key.clone(), object.revision);
    if deleting && !object::is_held(&value) {
        return Ok(Write::Delete { key, draft, expected });
    }
    Ok(Write::Update { key, draft, expected })
}

/// Takes the finalizer off by which the server holds an operation until it has ended.
pub(crate) fn release(operation: &mut Value) {
    let left: Vec<String> = object::finalizers(operation)
        .into_iter()
        .filter(|name| *name != OPERATION_FINALIZER)
        .map(str::to_owned)
        .collect();
    if left.is_empty() {
        object::unset(operation, "finalizers");
    } else {
        object::set(operation, "finalizers", left);
    }
}

fn status(ending: &Ending) -> OperationStatus {
    let mut message = ending.message.clone();
    let mut output = (!ending.output.is_null()).then(|| ending.output.clone());
    let bytes = api::json_bytes(&ending.output);
    if bytes > MOST_PAYLOAD {
        output = None;
        message = format!("{message} (its output of {bytes} bytes is more than {MOST_PAYLOAD} and was left out)");
    }
    let phase = match ending.state {
        State::Succeeded => OperationPhase::Succeeded,
        State::Cancelled => OperationPhase::Cancelled,
        State::Dead | State::Ready | State::Delayed | State::Blocked | State::Running => OperationPhase::Dead,
    };
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    OperationStatus {
        phase,
        reason: text(ending.reason.clone()),
        message: text(message.trim().to_owned()),
        finished_at: shown::time(ending.at_ms),
        output,
        ..shown::ledger(&ending.standing)
    }
}
