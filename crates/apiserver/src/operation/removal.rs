//! When an operation may be deleted: not before its outcome stands in its owner's status.
//!
//! | it has | its owner | what a deletion does |
//! |---|---|---|
//! | ended | none, or gone, or has noted this end | removes it |
//! | ended | has not noted this end | refused: 409 `OutcomeNotStored` |
//! | not ended | lives | refused: 409 `OperationNotEnded`; it is cancelled first |
//! | not ended | none, or gone | cancels it; it goes when it has ended |
//!
//! One that died, and has steps that are not undone, stays all the same: as a dead letter that is being deleted. It goes when
//! a replay has undone them, or when somebody takes the finalizer off it, who has looked at what is left. Nothing else does.
//!
//! In a namespace that is being deleted nothing is refused. The owner is looked at before the write, and not in its
//! transaction: what permits a deletion stays true. A uid that is gone never comes back, an end that was noted was noted,
//! a namespace that is going goes, and whom an operation serves is never changed. That the operation itself has ended, and
//! was not replayed since, the write's own revision says.

use std::sync::Arc;

use mainstay_api::operation::{OperationRef, OperationStatus};
use mainstay_store::Object;
use serde::Deserialize;
use serde_json::Value;

use super::{has_ended, left_something, outcome};
use crate::object;
use crate::server::ApiServer;
use crate::status::{About, ApiError, ApiResult};

/// The object that an operation serves, as far as its deletion goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// There is none.
    None,
    /// It is gone.
    Gone,
    /// It lives, and has noted how the operation ended.
    Told,
    /// It lives, and has noted no such thing. Its kind and name.
    Lives(String),
}

/// The object as its deletion begins with it: cancelled, or let go.
///
/// # Errors
/// 409 when its outcome would be lost.
pub(crate) async fn begin(server: &ApiServer, about: About<'_>, operation: &Value) -> ApiResult<Value> {
    let ended = has_ended(operation);
    if !ended && object::is_deleting(operation) {
        return Ok(operation.clone());
    }
    let owner = owner(server, operation).await?;
    if let (Owner::Lives(who), false) = (&owner, ended) {
        refuse_unless_going(server, about, operation, || not_ended(about, who)).await?;
    }
    if let (Owner::Lives(who), true) = (&owner, ended) {
        refuse_unless_going(server, about, operation, || not_stored(about, who, operation)).await?;
    }
    Ok(begun(operation))
}

/// The object as its deletion begins with it, when nothing speaks against that.
pub(super) fn begun(operation: &Value) -> Value {
    let mut new = operation.clone();
    if has_ended(operation) && !left_something(operation) {
        outcome::release(&mut new);
    } else {
        // Of what died it says what a replay is to do: to take it back.
        new["spec"]["cancelled"] = true.into();
    }
    new
}

fn not_ended(about: About<'_>, owner: &str) -> ApiError {
    let why = format!("it has not ended, and {owner} waits for it: cancel it first (spec.cancelled: true)");
    ApiError::conflict(about, &why).with_cause("OperationNotEnded", "status.phase", why)
}

fn not_stored(about: About<'_>, owner: &str, operation: &Value) -> ApiError {
    let phase = operation["status"]["phase"].as_str().unwrap_or_default();
    let why = format!(
        "it has ended ({phase}), and {owner} has not noted that in its status.operations yet: wait until it has, or \
         delete {owner}"
    );
    ApiError::conflict(about, &why).with_cause("OutcomeNotStored", "status.phase", why)
}

async fn refuse_unless_going(
    server: &ApiServer,
    about: About<'_>,
    operation: &Value,
    refusal: impl FnOnce() -> ApiError,
) -> ApiResult<()> {
    let Some(namespaces) = server.catalog().of_group("", "namespaces") else { return Err(refusal()) };
    let key = namespaces.key("", object::text(operation, "namespace"));
    let found = server.store().get(&key).await.map_err(|error| ApiError::from_store(&error, about))?;
    if found.is_none_or(|namespace| object::is_terminating(&namespace)) { Ok(()) } else { Err(refusal()) }
}

/// Looks at the controller that an operation serves.
///
/// # Errors
/// What the store refuses.
pub(crate) async fn owner(server: &ApiServer, operation: &Value) -> ApiResult<Owner> {
    let references = operation["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let Some(reference) = references.into_iter().find(|reference| reference["controller"] == true) else {
        return Ok(Owner::None);
    };
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let lives = || Owner::Lives(format!("{} {:?}", text("kind"), text("name")));
    // Of a kind that is not served it cannot be told that it is gone.
    let Some(entry) = server.catalog().by_kind(text("apiVersion"), text("kind")) else { return Ok(lives()) };
    let namespace = if entry.kind.namespaced { object::text(operation, "namespace") } else { "" };
    let about = About { kind: &entry.kind, name: text("name") };
    let found = server.store().get(&entry.key(namespace, text("name"))).await;
    let found = found.map_err(|error| ApiError::from_store(&error, about))?;
    let Some(owner) = found.filter(|owner| *owner.meta.uid == *text("uid")) else { return Ok(Owner::Gone) };
    let status = OperationStatus::deserialize(&operation["status"]).unwrap_or_default();
    let told = noted(&owner).iter().any(|noted| noted.tells(object::text(operation, "uid"), &status));
    Ok(if told { Owner::Told } else { lives() })
}

/// What an object keeps of its operations; nothing of what is none.
fn noted(owner: &Arc<Object>) -> Vec<OperationRef> {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(default)]
        status: Status,
    }
    #[derive(Default, Deserialize)]
    struct Status {
        #[serde(default)]
        operations: Vec<OperationRef>,
    }
    serde_json::from_slice::<Probe>(&owner.body).map(|probe| probe.status.operations).unwrap_or_default()
}
