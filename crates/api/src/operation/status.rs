//! What is known of an operation, and what its owner keeps of that.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Operation;

/// The most operations that an owner keeps in its status; the oldest that have ended go first.
pub const OPERATION_REFS: usize = 16;

/// What is known of an operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationStatus {
    /// Where it is in its life. `Running` and `Waiting` are shown to readers, and not to watches and field selectors: for
    /// these it is `Pending` until it has ended.
    #[serde(default)]
    pub phase: OperationPhase,
    /// How often it was begun. Attempts are numbered from 1, and their numbers grow with each replay, too.
    #[serde(default)]
    pub attempts: u64,
    /// How many attempts failed since its creation, or its last replay.
    #[serde(default)]
    pub failures: u32,
    /// Why it is in this phase, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the newest attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<MicroTime>,
    /// When its next attempt is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<MicroTime>,
    /// How far its steps are, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub steps: Vec<StepRecord>,
    /// How its newest attempts ended, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<AttemptRecord>,
    /// What its last step gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// What failed for good, while what was done is being undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoing: Option<AttemptRecord>,
}

/// Where an operation is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OperationPhase {
    /// It will be begun as soon as there is a worker for it.
    #[default]
    Pending,
    /// An attempt is under way.
    Running,
    /// It waits for its time, or for another with its concurrency key.
    Waiting,
    /// It ended well.
    Succeeded,
    /// It was ended because it was told to; what was done is undone.
    Cancelled,
    /// It ended without success, and waits for somebody to look: a dead letter.
    Dead,
}

impl OperationPhase {
    /// All phases.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Waiting, Self::Succeeded, Self::Cancelled, Self::Dead];

    /// Whether it has ended.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Cancelled | Self::Dead)
    }

    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Waiting => "Waiting",
            Self::Succeeded => "Succeeded",
            Self::Cancelled => "Cancelled",
            Self::Dead => "Dead",
        }
    }

    /// The phase of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }
}

impl std::fmt::Display for OperationPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: StepRecordState,
    /// The attempt that wrote this.
    pub attempt: u64,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StepRecordState {
    /// It may have had its effect.
    Intent,
    /// It had its effect.
    Done,
    /// Its undoing may have begun.
    Undoing,
    /// It has no effect any more.
    Undone,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// Its number.
    pub attempt: u64,
    /// When it began.
    pub started_at: MicroTime,
    /// When it ended.
    pub finished_at: MicroTime,
    /// Why, in one word; `Lost` when its worker was.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// An operation in its owner's `status.operations`, at most [`OPERATION_REFS`] of them. Once its final phase stands there,
/// the outcome is the owner's, and the operation may go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationRef {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Where it was in its life when its owner looked.
    #[serde(default)]
    pub phase: OperationPhase,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<MicroTime>,
}

impl OperationRef {
    /// What an owner keeps of an operation.
    pub fn of(operation: &Operation) -> Self {
        let status = operation.status.as_ref();
        Self {
            name: operation.metadata.name.clone().unwrap_or_default(),
            uid: operation.metadata.uid.clone().unwrap_or_default(),
            phase: status.map_or_else(OperationPhase::default, |status| status.phase),
            reason: status.and_then(|status| status.reason.clone()),
            message: status.and_then(|status| status.message.clone()),
            finished_at: status.and_then(|status| status.finished_at.clone()),
        }
    }

    /// Whether this is how the operation of that uid ended. What was noted of an end before a replay is another end.
    pub fn tells(&self, uid: &str, status: &OperationStatus) -> bool {
        status.phase.is_final()
            && (self.uid.as_str(), self.phase, &self.finished_at) == (uid, status.phase, &status.finished_at)
    }
}
