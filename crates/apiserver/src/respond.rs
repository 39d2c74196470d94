//! Responses, in their few forms.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::body::Body;
use crate::status::ApiError;

const WARNING: HeaderName = HeaderName::from_static("warning");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// More warnings than this are not sent: headers are bounded.
const MAX_WARNINGS: usize = 16;
/// Longer warnings are cut.
const MAX_WARNING: usize = 512;

/// A response with a body of some type.
pub(crate) fn with_type(code: StatusCode, media: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, media);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// JSON bytes.
pub(crate) fn json(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    with_type(code, JSON, Body::full(body))
}

/// Plain text.
pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    with_type(code, HeaderValue::from_static("text/plain; charset=utf-8"), Body::full(body))
}

/// JSON in a body of any form.
pub(crate) fn json_body(body: Body) -> Response<Body> {
    with_type(StatusCode::OK, JSON, body)
}

/// The `Status` of a failure.
pub(crate) fn failure(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, error.to_json());
    if let Some(seconds) = error.retry_seconds() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if code == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Adds warnings, as `Warning: 299 - "..."`.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let safe: String = warning
            .chars()
            .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
            .take(MAX_WARNING)
            .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{safe}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
