//! `Project`: takes the namespace of its name, and only one that is free.
//!
//! The reconciler looks again before it makes the namespace, and adopts none: this look is for a clear answer.

use mainstay_api::project::RESERVED;
use serde_json::Value;

use crate::object;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};

/// Refuses a new project whose namespace is the platform's, or somebody else's.
///
/// # Errors
/// 409, and what the store refuses.
pub(crate) async fn complete(call: &Call<'_>, new: &Value) -> ApiResult<()> {
    let name = object::text(new, "name");
    let about = call.about(name);
    if RESERVED.contains(&name) {
        return Err(ApiError::conflict(
            about,
            format_args!("namespace {name:?} is the platform's; choose another name"),
        ));
    }
    let Some(namespaces) = call.server.catalog().of_group("", "namespaces") else { return Ok(()) };
    let exists = |key| async move {
        let found = call.server.store().get(&key).await;
        found.map(|found| found.is_some()).map_err(|error| ApiError::from_store(&error, about))
    };
    if exists(call.entry.key("", name)).await? {
        return Err(ApiError::already_exists(about));
    }
    if exists(namespaces.key("", name)).await? {
        let why =
            format!("namespace {name:?} exists and is not this project's; choose another name, or delete it first");
        return Err(ApiError::conflict(about, why));
    }
    Ok(())
}
