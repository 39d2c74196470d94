//! `Operation`: a durable order to do something that takes long, and the ledger of how it went.
//!
//! Creation, cancellation, replay and outcome are writes of the object. What happens in between (claims, attempts, the
//! journal) is the queue's, and is merged into the status when the object is read.

mod rules;
mod status;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kind::{Column, Kind, Rules, Unknown};

pub use rules::json_bytes;
pub use status::{
    AttemptRecord, OPERATION_REFS, OperationPhase, OperationRef, OperationStatus, StepRecord, StepRecordState,
};

/// Bytes of a payload, and of an output, as JSON writes it.
pub const MOST_PAYLOAD: usize = 64 << 10;
/// How deep a payload may be nested.
pub const MOST_DEPTH: usize = 32;
/// Items of one `OperationList` that is created.
pub const MOST_BATCH: usize = 512;

/// A durable order to do something that takes long: it is carried out step by step, survives whoever carries it out, and
/// is never done twice. All but `cancelled` and `replays` stays as it was created.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "mainstay.dev", version = "v1alpha1", kind = "Operation", namespaced)]
#[kube(shortname = "op", shortname = "ops", status = "OperationStatus", derive = "PartialEq", derive = "Default")]
#[serde(rename_all = "camelCase")]
pub struct OperationSpec {
    /// Who carries it out: the name of a handler.
    pub handler: String,
    /// What the handler needs to know; at most 64 KiB as JSON, nested at most 32 levels deep.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub payload: Map<String, Value>,
    /// Of the operations of one project the highest goes first.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Time>,
    /// Of all operations of the project with this key only one is carried out at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub concurrency_key: Option<String>,
    /// After so many failures it is a dead letter.
    #[serde(default = "five_attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: u32,
    /// How long one attempt may take, in seconds.
    #[serde(default = "ten_minutes")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: u32,
    /// Whose turn it takes: projects get theirs evenly. The namespace when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// It is to be ended: what was done is undone. Cannot be taken back.
    #[serde(default)]
    pub cancelled: bool,
    /// How often it was put back into the queue after it had died; raising it does that.
    #[serde(default)]
    #[schemars(range(max = 1_000_000))]
    pub replays: u32,
}

const fn five_attempts() -> u32 {
    5
}

const fn ten_minutes() -> u32 {
    600
}

/// The row of this kind in the registry.
pub fn kind() -> Kind {
    Kind {
        group: crate::GROUP,
        version: crate::VERSION,
        kind: "Operation",
        plural: "operations",
        singular: "operation",
        short_names: &["op", "ops"],
        categories: &["mainstay"],
        namespaced: true,
        status: true,
        core: false,
        columns: COLUMNS,
        selectable: &["spec.handler", "spec.project", "status.phase"],
        schema: crate::schema::of::<Operation>,
        unknown: Unknown::AsAsked,
        rules: Rules { on_create: rules::on_create, check: rules::check, ..Rules::NONE },
    }
}

const COLUMNS: &[Column] = &[
    Column { name: "Handler", kind: "string", path: "spec.handler", priority: 0, description: "Who carries it out" },
    Column { name: "Phase", kind: "string", path: "status.phase", priority: 0, description: "Where it is in its life" },
    Column {
        name: "Attempts",
        kind: "integer",
        path: "status.attempts",
        priority: 0,
        description: "How often it was begun",
    },
    Column { name: "Reason", kind: "string", path: "status.reason", priority: 0, description: "Why it is there" },
    Column {
        name: "Owner",
        kind: "string",
        path: "metadata.ownerReferences[0].name",
        priority: 1,
        description: "The object that it serves",
    },
];

#[cfg(test)]
mod tests;
