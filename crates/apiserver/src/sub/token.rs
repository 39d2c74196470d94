//! `serviceaccounts/NAME/token`: a token of the service account, bound to an object.

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::body::Body;
use crate::content;
use crate::object;
use crate::respond;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::token::{TokenError, TokenRequest};

/// Answers `POST`.
///
/// # Errors
/// 422 for what cannot be issued, 403 for a caller who may not have it, 404.
pub(crate) async fn create(call: &Call<'_>, body: Bytes) -> ApiResult<Response<Body>> {
    let body = content::parse_fields(&call.parts.headers, &body, "a TokenRequest")?;
    for (field, expected) in [("apiVersion", "authentication.k8s.io/v1"), ("kind", "TokenRequest")] {
        if body.get(field).is_some_and(|found| found != expected) {
            return Err(ApiError::bad_request(format!(
                "the {field} in the data does not match the expected {expected:?}"
            )));
        }
    }
    let failed = |error: &TokenError| failure(call, error);
    let request = TokenRequest::from_body(call.namespace(), call.name(), &body).map_err(|error| failed(&error))?;
    call.server.access().admit_token(call, &request).await?;
    let issued = call.server.access().tokens.issue(&request).await.map_err(|error| failed(&error))?;
    Ok(respond::json(StatusCode::CREATED, object::to_bytes(&request.answer(&issued))?))
}

fn failure(call: &Call<'_>, error: &TokenError) -> ApiError {
    match error {
        TokenError::Request(errors) => ApiError::invalid(call.about(call.name()), errors),
        TokenError::NotFound(_) => ApiError::new(404, "NotFound", error.to_string()),
        TokenError::Store(error) => ApiError::from_store(error, call.about(call.name())),
        TokenError::NotOurs
        | TokenError::Audience
        | TokenError::Expired
        | TokenError::NotYet
        | TokenError::Revoked(_)
        | TokenError::Key
        | TokenError::Keys(_) => {
            tracing::error!(%error, "a token could not be issued");
            ApiError::internal(error)
        }
    }
}
