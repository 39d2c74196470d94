//! Operations: how their objects become rows of the queue, orders for workers, outcomes and statuses.
//!
//! The object is the order and, in the end, the outcome; the row beside it is how far it is. [`queued`] is what the row is
//! told with each write of the object, [`Objects`] what a worker reads and what it writes when it is done,
//! [`shown`] what a reader sees in between, [`removal`] when an object may go, and [`sweep`] how it goes by itself.

pub(crate) mod outcome;
pub(crate) mod removal;
pub(crate) mod shown;
pub(crate) mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use mainstay_api::operation::{OperationPhase, OperationSpec, OperationStatus, StepRecordState};
use mainstay_runtime::operation::{Owner, Work};
use mainstay_runtime::{Class, Failure, Reason, Timestamp};
use mainstay_store::operation::{Ending, Ledger, Order, Queued};
use mainstay_store::{Object, Write};
use serde::Deserialize;
use serde_json::Value;

use crate::object;

/// Operations' objects as this server stores them, for workers.
#[derive(Debug, Clone, Copy)]
pub struct Objects;

impl Ledger for Objects {
    fn order(&self, object: &Object) -> Result<Order, Failure> {
        order(object)
    }

    fn end(&self, object: &Object, ending: &Ending) -> Result<Write, Failure> {
        outcome::outcome(object, ending)
    }
}

#[derive(Deserialize)]
struct Stored {
    metadata: Metadata,
    spec: OperationSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: Arc<str>,
    #[serde(default)]
    owner_references: Vec<OwnerReference>,
}

#[derive(Deserialize)]
struct OwnerReference {
    kind: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
    #[serde(default)]
    controller: bool,
}

/// Reads what an operation's object orders.
///
/// # Errors
/// Terminal(Invalid), when it cannot be read.
fn order(object: &Object) -> Result<Order, Failure> {
    let Stored { metadata, spec } = serde_json::from_slice(&object.body).map_err(|error| unreadable(object, error))?;
    let owner = metadata.owner_references.into_iter().find(|owner| owner.controller);
    Ok(Order {
        work: Work {
            id: metadata.uid,
            namespace: object.key.namespace.clone(),
            name: object.key.name.clone(),
            handler: spec.handler.into(),
            owner: owner.map(|OwnerReference { kind, name, uid, .. }| Owner { kind, name, uid }),
            payload: Value::Object(spec.payload),
        },
        max_attempts: spec.max_attempts,
        timeout: Duration::from_secs(spec.timeout_seconds.into()),
    })
}

fn unreadable(object: &Object, error: serde_json::Error) -> Failure {
    let class = Class::Terminal(Reason::Invalid);
    Failure::caused_by(class, format!("read operation {}/{}", object.key.namespace, object.key.name), error)
}

/// What the queue has to know of an operation.
pub(crate) fn queued(operation: &Value) -> Queued {
    let spec = &operation["spec"];
    let text = |value: &Value| value.as_str().map(Arc::<str>::from);
    let millis = |value: &Value| {
        let time = value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
        time.map_or(0, Timestamp::as_millisecond)
    };
    let lane = text(&spec["project"]).unwrap_or_else(|| object::text(operation, "namespace").into());
    let priority = spec["priority"].as_i64().unwrap_or(0);
    let replays = spec["replays"].as_u64().unwrap_or(0);
    Queued {
        lane,
        handler: text(&spec["handler"]).unwrap_or_default(),
        // Both are within bounds that the schema sets.
        priority: i32::try_from(priority).unwrap_or(0),
        run_at_ms: millis(&spec["runAt"]),
        concurrency_key: text(&spec["concurrencyKey"]),
        cancelled: spec["cancelled"] == true,
        replays: u32::try_from(replays).unwrap_or(u32::MAX),
        created_ms: millis(&operation["metadata"]["creationTimestamp"]),
    }
}

/// Whether it died, and what it did may have effects still: it is not forgotten before somebody has looked.
pub(crate) fn left_something(operation: &Value) -> bool {
    let status = OperationStatus::deserialize(&operation["status"]).unwrap_or_default();
    status.phase == OperationPhase::Dead && status.steps.iter().any(|step| step.state != StepRecordState::Undone)
}

/// Whether its status says that it has ended.
pub(crate) fn has_ended(operation: &Value) -> bool {
    let phase = operation["status"]["phase"].as_str().and_then(OperationPhase::parse);
    phase.is_some_and(OperationPhase::is_final)
}
