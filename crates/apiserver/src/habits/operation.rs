//! `Operation`: its project is the namespace's when it names none, whom it serves must be of a kind that there is, and a
//! replay begins anew.

use mainstay_api::FieldError;
use mainstay_api::common::quoted;
use mainstay_store::Draft;
use serde_json::Value;
use std::sync::Arc;

use crate::catalog::Entry;
use crate::object;
use crate::operation::queued;
use crate::server::ApiServer;
use crate::status::{ApiError, ApiResult};

/// What an end leaves in the status, and a new beginning takes out of it. History, steps and the number of attempts stay.
const OF_THE_END: [&str; 5] = ["reason", "message", "finishedAt", "output", "undoing"];

/// Completes a new or changed operation.
pub(crate) fn complete(server: &ApiServer, new: &mut Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    if new["spec"]["project"].is_null() {
        let namespace = object::text(new, "namespace").into();
        new["spec"]["project"] = old.map_or(namespace, |old| old["spec"]["project"].clone());
    }
    let Some(old) = old else {
        errors.extend(unknown_owner(server, new));
        return;
    };
    let replays = |object: &Value| object["spec"]["replays"].as_u64().unwrap_or(0);
    if replays(new) > replays(old) {
        begin_again(&mut new["status"]);
    }
}

fn begin_again(status: &mut Value) {
    status["phase"] = "Pending".into();
    status["failures"] = 0.into();
    if let Some(status) = status.as_object_mut() {
        status.retain(|field, _| !OF_THE_END.contains(&field.as_str()));
    }
}

/// Whether it still exists could not be told of an owner whose kind is not served.
fn unknown_owner(server: &ApiServer, new: &Value) -> Option<FieldError> {
    let references = new["metadata"]["ownerReferences"].as_array()?;
    let (at, owner) = references.iter().enumerate().find(|(_, owner)| owner["controller"] == true)?;
    let text = |field: &str| owner[field].as_str().unwrap_or_default();
    let known = server.catalog().by_kind(text("apiVersion"), text("kind")).is_some();
    let path = format!("metadata.ownerReferences[{at}].kind");
    let detail = || format!("{} has no such kind: the owner's outcome could not be looked up", text("apiVersion"));
    (!known).then(|| FieldError::invalid(path, quoted(text("kind")), detail()))
}

/// The operation as bytes, and what its row is told with them.
///
/// # Errors
/// 500 when it cannot be serialised, which a parsed value always can.
pub(crate) fn draft(entry: &Entry, operation: &Value) -> ApiResult<Draft> {
    let draft = object::draft(entry, operation)?;
    Ok(Draft { queued: Some(Arc::new(queued(operation))), ..draft })
}

/// What is refused before anything else is looked at.
///
/// # Errors
/// 422 when a new operation comes with a status.
pub(crate) fn refuse_status(entry: &Entry, new: &Value) -> ApiResult<()> {
    if new["status"].is_null() {
        return Ok(());
    }
    let detail = "is written by the queue that carries the operation out; leave it out";
    let about = crate::status::About { kind: &entry.kind, name: object::text(new, "name") };
    Err(ApiError::invalid(about, &[FieldError::forbidden("status", detail)]))
}
