//! Discovery and OpenAPI, which derive from the registry.

use http::Response;
use http::request::Parts;

use crate::body::Body;
use crate::request::Query;
use crate::server::ApiServer;
use crate::status::{ApiError, ApiResult};

/// Answers the paths that describe the API.
///
/// # Errors
/// 404 for any other path.
pub(crate) fn answer(_server: &ApiServer, _parts: &Parts, _path: &str, _query: &Query<'_>) -> ApiResult<Response<Body>> {
    Err(ApiError::no_such_path())
}
