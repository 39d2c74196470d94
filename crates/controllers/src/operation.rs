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

use crate::driver::Key;

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

/// What an owner keeps of its operations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// For its `status.operations`.
    pub refs: Vec<OperationRef>,
    /// Ended ones for which there is no room there any more. They are deleted before: nobody could tell from the owner, later,
    /// that it has noted their ends.
    pub outgrown: Vec<OperationRef>,
}

/// What the owner keeps, with these operations as they are now. The oldest that have ended go first.
pub fn kept<'a>(before: &[OperationRef], operations: impl IntoIterator<Item = &'a Operation>) -> Kept {
    let mut refs = before.to_vec();
    for operation in operations {
        let new = OperationRef::of(operation);
        refs.retain(|old| old.uid != new.uid);
        // What changes from one look to the next is not for the owner's status.
        refs.push(if new.phase.is_final() {
            new
        } else {
            OperationRef { phase: OperationPhase::Pending, reason: None, message: None, ..new }
        });
    }
    let mut outgrown = Vec::new();
    while refs.len() > OPERATION_REFS {
        let Some(oldest) = refs.iter().position(|one| one.phase.is_final()) else { break };
        outgrown.push(refs.remove(oldest));
    }
    Kept { refs, outgrown }
}

/// Where those of an owner's operations are that it has not seen ended, but for the one of this name.
pub fn open_of(owner: &ObjectMeta, refs: &[OperationRef], but: &str) -> Vec<Key> {
    let open = refs.iter().filter(|one| !one.phase.is_final() && one.name != but);
    open.map(|one| key_of(owner, one)).collect()
}

/// Where an operation of this owner is.
pub fn key_of(owner: &ObjectMeta, operation: &OperationRef) -> Key {
    Key { namespace: Some(home_of(owner)), name: operation.name.clone() }
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
