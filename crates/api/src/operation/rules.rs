//! What may be said in an operation, and what may change.

use std::io;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{MOST_DEPTH, MOST_PAYLOAD, OperationPhase};
use crate::common::{self, quoted};
use crate::field::{Fault, FieldError};
use crate::names;

/// Fields of the spec that stay as they were created.
const FIXED: [&str; 7] =
    ["handler", "payload", "priority", "concurrencyKey", "maxAttempts", "timeoutSeconds", "project"];

pub(super) fn on_create(object: &mut Value) {
    names::hold(object, names::OPERATION_FINALIZER);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".to_owned(), json!({ "phase": "Pending", "attempts": 0, "failures": 0 }));
    }
}

pub(super) fn check(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    match old {
        None => check_new(&new["spec"]),
        Some(old) => check_change(new, old),
    }
}

fn check_new(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["handler", "project"] {
        if let Some(name) = spec[field].as_str()
            && let Some(fault) = common::label_fault(name)
        {
            errors.push(FieldError::invalid(format!("spec.{field}"), quoted(name), fault));
        }
    }
    errors.extend(check_payload(&spec["payload"]));
    if spec["cancelled"] == true {
        let detail = "a new operation is not cancelled; leave it out, or create none";
        errors.push(FieldError::invalid("spec.cancelled", true, detail));
    }
    if let Some(replays @ 1..) = spec["replays"].as_u64() {
        errors.push(FieldError::invalid(
            "spec.replays",
            replays,
            "a new operation has not been replayed; leave it out",
        ));
    }
    errors
}

fn check_payload(payload: &Value) -> Option<FieldError> {
    let too_long = |detail: String| Some(FieldError::new("spec.payload", Fault::TooLong, detail));
    if is_deeper(payload, MOST_DEPTH) {
        return too_long(format!("may not be nested deeper than {MOST_DEPTH} levels; keep what is deep as text"));
    }
    let bytes = json_bytes(payload);
    if bytes <= MOST_PAYLOAD {
        return None;
    }
    too_long(format!(
        "may not be more than {MOST_PAYLOAD} bytes as JSON writes it, and is {bytes}; keep what is large elsewhere, and \
         name it here"
    ))
}

fn check_change(new: &Value, old: &Value) -> Vec<FieldError> {
    let (after, before) = (&new["spec"], &old["spec"]);
    let phase = old["status"]["phase"].as_str().and_then(OperationPhase::parse).unwrap_or_default();
    let mut errors = Vec::new();
    let fixed = |field: &str| {
        FieldError::forbidden(format!("spec.{field}"), "stays as it was created; create another operation instead")
    };
    errors.extend(FIXED.iter().filter(|field| after[**field] != before[**field]).map(|field| fixed(field)));
    let time = |spec: &Value| Time::deserialize(&spec["runAt"]).ok();
    if time(after) != time(before) {
        errors.push(fixed("runAt"));
    }
    match (before["cancelled"] == true, after["cancelled"] == true) {
        (true, false) => errors.push(FieldError::forbidden("spec.cancelled", "cannot be taken back")),
        (false, true) if phase.is_final() => {
            let detail = format!("it has ended already: it is {phase}");
            errors.push(FieldError::forbidden("spec.cancelled", detail));
        }
        _ => {}
    }
    let replays = |spec: &Value| spec["replays"].as_u64().unwrap_or(0);
    errors.extend(check_replay(replays(after), replays(before), phase, old));
    if new["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
        let detail = "whom an operation serves stays as it was created";
        errors.push(FieldError::forbidden("metadata.ownerReferences", detail));
    }
    if is_held(old) && !is_held(new) && !(is_deleting(old) && phase == OperationPhase::Dead) {
        let detail = format!("{} is the server's: it goes when the operation has ended", names::OPERATION_FINALIZER);
        errors.push(FieldError::forbidden("metadata.finalizers", detail));
    }
    errors
}

fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Whether the server holds it until it has ended, and nothing of it is left.
fn is_held(object: &Value) -> bool {
    let list = object["metadata"]["finalizers"].as_array();
    list.is_some_and(|list| list.iter().any(|name| name == names::OPERATION_FINALIZER))
}

fn check_replay(after: u64, before: u64, phase: OperationPhase, old: &Value) -> Option<FieldError> {
    let path = "spec.replays";
    if after < before {
        return Some(FieldError::invalid(path, after, format!("may only grow, and is {before}")));
    }
    if after == before {
        return None;
    }
    if phase != OperationPhase::Dead {
        let shown = if phase.is_final() { phase.as_str() } else { "not ended" };
        return Some(FieldError::forbidden(path, format!("it has not died: only a dead letter is replayed ({shown})")));
    }
    let goes = is_deleting(old) && !is_held(old);
    goes.then(|| FieldError::forbidden(path, "it is being deleted; create another operation instead"))
}

/// How many bytes JSON takes for a value.
pub fn json_bytes(value: &Value) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // A value always has a form as JSON.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| is_deeper(item, levels - 1)),
        Value::Object(fields) => levels == 0 || fields.values().any(|field| is_deeper(field, levels - 1)),
        _ => false,
    }
}
