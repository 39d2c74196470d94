//! Operations that reconcilers order, and what their owners keep of them.
//!
//! A reconciler orders long work under a name that only it gives (owner's uid, generation, step), so ordering again is
//! harmless, and a new generation is a new order. What came of it goes into the owner's `status.operations`; then the
//! operation may be deleted. A dead letter blocks its owner until it is replayed or the owner changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference, Time};
use kube::Resource;
use mainstay_api::operation::{OPERATION_REFS, Operation, OperationPhase, OperationRef, OperationSpec};
use mainstay_runtime::Timestamp;
use serde_json::{Map, Value};

/// Where the operations of owners live that are in no namespace.
pub const SYSTEM_NAMESPACE: &str = "mainstay-system";
/// The condition of an owner whose operation died.
const BLOCKED: &str = "Blocked";

/// After so many failures in a row, one to five minutes apart, somebody has to look.
const MOST_ATTEMPTS: u32 = 10;
/// The time of one attempt. Who waits for the world does so between attempts.
const TIMEOUT_SECONDS: u32 = 120;

/// What is to be done for an owner.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// The step of the owner's life that it is for; part of its name.
    pub step: &'static str,
    /// Who carries it out.
    pub handler: &'static str,
    /// Whose turn it takes.
    pub project: &'a str,
    /// What the handler needs to know.
    pub payload: Map<String, Value>,
}

/// The name of the operation for a step of this owner, in its present generation.
pub fn name_of(owner: &ObjectMeta, step: &str) -> String {
    format!("{}-{}-{step}", owner.uid.as_deref().unwrap_or_default(), owner.generation.unwrap_or_default())
}

/// The namespace in which an owner's operations live.
fn home_of(owner: &ObjectMeta) -> String {
    owner.namespace.clone().unwrap_or_else(|| SYSTEM_NAMESPACE.to_owned())
}

impl Order<'_> {
    /// The operation. Of all of one owner only one is carried out at a time.
    pub fn of<K: Resource<DynamicType = ()>>(self, owner: &K) -> Operation {
        let meta = owner.meta();
        let uid = meta.uid.clone().unwrap_or_default();
        let spec = OperationSpec {
            handler: self.handler.to_owned(),
            payload: self.payload,
            project: Some(self.project.to_owned()),
            concurrency_key: Some(uid.clone()),
            max_attempts: MOST_ATTEMPTS,
            timeout_seconds: TIMEOUT_SECONDS,
            ..OperationSpec::default()
        };
        let mut operation = Operation::new(&name_of(meta, self.step), spec);
        operation.metadata.namespace = Some(home_of(meta));
        operation.metadata.owner_references = Some(vec![OwnerReference {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            name: meta.name.clone().unwrap_or_default(),
            uid,
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        operation
    }
}

/// Where an operation stands.
pub fn phase(operation: &Operation) -> OperationPhase {
    operation.status.as_ref().map_or_else(OperationPhase::default, |status| status.phase)
}

/// What the owner keeps, with this operation as it is now. The oldest that have ended go first.
pub fn noted(before: &[OperationRef], operation: &Operation) -> Vec<OperationRef> {
    let new = OperationRef::of(operation);
    // What changes from one look to the next is not for the owner's status.
    let new = if new.phase.is_final() {
        new
    } else {
        OperationRef { phase: OperationPhase::Pending, reason: None, message: None, ..new }
    };
    let mut all: Vec<OperationRef> = before.iter().filter(|old| old.uid != new.uid).cloned().collect();
    all.push(new);
    while all.len() > OPERATION_REFS {
        let oldest = all.iter().position(|one| one.phase.is_final()).unwrap_or(0);
        all.remove(oldest);
    }
    all
}

/// Whether the owner waits for somebody to look at what died; `None` when it never did.
pub fn blocked(
    before: &[Condition],
    operation: &Operation,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<Condition> {
    let name = operation.metadata.name.as_deref().unwrap_or_default();
    let status = operation.status.clone().unwrap_or_default();
    let (holds, reason, message) = match status.phase {
        OperationPhase::Dead => {
            let why = [status.reason, status.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
            let how = format!(
                "operation {name} died ({why}); `mainstay replay operation {name} -n {}` tries again",
                operation.metadata.namespace.as_deref().unwrap_or_default()
            );
            ("True", "OperationDead", how)
        }
        OperationPhase::Cancelled => (
            "True",
            "OperationCancelled",
            format!("operation {name} was cancelled; a change of the spec orders another"),
        ),
        _ if before.iter().any(|condition| condition.type_ == BLOCKED) => ("False", "OperationOrdered", String::new()),
        _ => return None,
    };
    Some(Condition {
        type_: BLOCKED.to_owned(),
        status: holds.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: Time(now),
        observed_generation: generation,
    })
}
