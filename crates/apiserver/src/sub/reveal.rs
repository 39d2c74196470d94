//! `credentials/NAME/reveal`: the token in the clear, for the node that runs a session it was granted to.
//!
//! RBAC lets nobody else in; this file adds nothing to that and must not log what it returns.

use http::{Response, StatusCode};
use serde_json::json;

use crate::body::Body;
use crate::habits;
use crate::object;
use crate::respond;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::verbs::read;

/// Answers `GET`.
///
/// # Errors
/// 404 when there is no token, and what the store refuses.
pub(crate) async fn read(call: &Call<'_>) -> ApiResult<Response<Body>> {
    if !call.identity.is_node() {
        return Err(ApiError::forbidden(call.about(call.name()), "only a node agent may read a credential's token"));
    }
    let stored = read::find(call).await?;
    let opened = habits::opened(call.server, call.entry, object::parse(&stored)?)?;
    let spec = &opened["spec"];
    let answer = json!({"token": spec["token"], "url": spec["url"], "email": spec["email"]});
    Ok(respond::json(StatusCode::OK, object::to_bytes(&answer)?))
}
