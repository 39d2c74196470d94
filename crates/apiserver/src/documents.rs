//! Discovery and OpenAPI, which derive from the registry: made once, answered with an ETag.

use http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{Response, StatusCode};
use mainstay_api::Registry;

use crate::body::Body;
use crate::discovery::{Discovery, NoDocument};
use crate::openapi::OpenApi;
use crate::status::{ApiError, ApiResult};

/// The documents of one registry.
#[derive(Debug)]
pub(crate) struct Documents {
    discovery: Discovery,
    openapi: OpenApi,
}

impl Documents {
    /// Of this registry.
    pub(crate) fn new(registry: &Registry) -> Self {
        Self { discovery: Discovery::new(registry), openapi: OpenApi::new(registry) }
    }

    /// Answers the paths that describe the API.
    ///
    /// # Errors
    /// 404 for any other path, 406 for a form that there is not.
    pub(crate) fn answer(&self, parts: &Parts, path: &str) -> ApiResult<Response<Body>> {
        let found = if path.starts_with("/openapi/") {
            self.openapi.answer(path, &parts.headers)
        } else {
            self.discovery.answer(path, &parts.headers)
        };
        let document = found.map_err(|why| match why {
            NoDocument::NotFound => ApiError::no_such_path(),
            NoDocument::NotAcceptable => ApiError::not_acceptable(why.to_string()),
        })?;
        let etag = format!("\"{}\"", document.hash);
        let known = parts.headers.get_all(IF_NONE_MATCH).iter().any(|value| value.as_bytes() == etag.as_bytes());
        let mut response = Response::new(if known { Body::empty() } else { Body::full(document.body.clone()) });
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, document.media.clone());
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        if let Ok(value) = HeaderValue::from_str(&etag) {
            headers.insert(ETAG, value);
        }
        Ok(response)
    }
}
