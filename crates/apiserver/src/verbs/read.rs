//! `get`, and how an object becomes a response.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use mainstay_store::Object;

use crate::body::Body;
use crate::form::Form;
use crate::habits;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::verbs::list;

/// Answers `GET` of one object.
///
/// # Errors
/// 404, and what the store refuses.
pub(crate) async fn get(call: &Call<'_>) -> ApiResult<Response<Body>> {
    list::check_revision(call).await?;
    let object = find(call).await?;
    object_response(call, StatusCode::OK, &object).await
}

/// The object that the path names.
///
/// # Errors
/// 404, and what the store refuses.
pub(crate) async fn find(call: &Call<'_>) -> ApiResult<Arc<Object>> {
    let about = call.about(call.name());
    let key = call.entry.key(call.namespace(), call.name());
    let found = call.server.store().get(&key).await.map_err(|error| ApiError::from_store(&error, about))?;
    found.ok_or_else(|| ApiError::not_found(about))
}

/// An object in the form that the caller accepts.
///
/// # Errors
/// 406, and what reading a sealed object refuses.
pub(crate) async fn object_response(
    call: &Call<'_>,
    code: StatusCode,
    object: &Arc<Object>,
) -> ApiResult<Response<Body>> {
    let form = Form::of(call)?;
    let bytes = readable(call, object).await?;
    form.object(call, code, bytes)
}

/// The bytes that a client may read of a stored object: the stored ones, for most kinds.
///
/// # Errors
/// 500 when a sealed object cannot be opened.
pub(crate) async fn readable(call: &Call<'_>, object: &Arc<Object>) -> ApiResult<Bytes> {
    if call.entry.habit.reads_differ() {
        habits::readable(call.server, call.entry, object).await
    } else {
        Ok(object.body.clone())
    }
}

/// As [`readable`], of a page of objects.
///
/// # Errors
/// As [`readable`].
pub(crate) async fn all_readable(call: &Call<'_>, objects: &[Arc<Object>]) -> ApiResult<Vec<Bytes>> {
    if call.entry.habit.reads_differ() {
        habits::all_readable(call.server, call.entry, objects).await
    } else {
        Ok(objects.iter().map(|object| object.body.clone()).collect())
    }
}
