//! One call: sent, bounded in time, repeated where that is harmless, and its answer read.

use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use mainstay_runtime::failure::{Class, Classify};
use serde_json::Value;

use super::{CALL_DEADLINE, CallError, Refusal, Server};

/// An answer larger than this is refused: a page holds at most 500 objects of at most 1.5 MiB each.
const MAX_ANSWER: usize = 1 << 30;
/// Asks for JSON.
pub(crate) const JSON: &str = "application/json";

/// Whether a call may be sent again when it is not known that it was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Repeating it has no effect beyond the first time.
    Harmless,
    /// Only if it surely was not carried out.
    Never,
}

/// A request to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    method: Method,
    path: &'a str,
    accept: &'a str,
    content_type: &'static str,
    body: Option<Vec<u8>>,
    repeat: Repeat,
}

impl<'a> Call<'a> {
    /// A read.
    pub(crate) fn get(path: &'a str) -> Self {
        let (method, repeat) = (Method::GET, Repeat::Harmless);
        Self { method, path, accept: JSON, content_type: JSON, body: None, repeat }
    }

    /// A POST of this object.
    pub(crate) fn post(path: &'a str, body: &Value, repeat: Repeat) -> Self {
        Self { method: Method::POST, body: Some(body.to_string().into_bytes()), repeat, ..Self::get(path) }
    }

    /// A merge patch.
    pub(crate) fn merge_patch(path: &'a str, patch: &Value, repeat: Repeat) -> Self {
        let content_type = "application/merge-patch+json";
        let body = Some(patch.to_string().into_bytes());
        Self { method: Method::PATCH, content_type, body, repeat, ..Self::get(path) }
    }

    /// A DELETE with these options, which name the uid: so it can be repeated.
    pub(crate) fn delete(path: &'a str, options: &Value) -> Self {
        Self { method: Method::DELETE, body: Some(options.to_string().into_bytes()), ..Self::get(path) }
    }

    /// Asks for another media type.
    pub(crate) fn accept(mut self, accept: &'a str) -> Self {
        self.accept = accept;
        self
    }

    pub(super) fn request(&self) -> Result<Request<Body>, CallError> {
        let mut request = Request::builder().method(self.method.clone()).uri(self.path).header(ACCEPT, self.accept);
        if self.body.is_some() {
            request = request.header(CONTENT_TYPE, self.content_type);
        }
        let body = self.body.clone().map_or_else(Body::empty, Body::from);
        request.body(body).map_err(|error| CallError::NotUnderstood { what: self.what(), why: error.to_string() })
    }

    fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// When to try again after this failure, if at all.
    fn pause(&self, error: &CallError, attempt: u32) -> Option<Duration> {
        let backoff = Duration::from_millis(100 << attempt.min(6));
        match error.class() {
            Class::Transient { retry_after } if attempt < 6 => {
                // A server that is not there will not be there in a second either.
                let reached = !matches!(error, CallError::Unreachable { .. });
                // A 500 leaves open whether the request was carried out.
                let certain = self.repeat == Repeat::Harmless || matches!(error.code(), Some(429 | 503));
                (reached && certain).then(|| retry_after.unwrap_or(backoff))
            }
            Class::Indeterminate if attempt < 3 && self.repeat == Repeat::Harmless => Some(backoff),
            _ => None,
        }
    }
}

impl Server {
    /// Reads a JSON document.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Call::get(path)).await
    }

    /// Sends a call, and again where that is harmless, and reads the JSON answer.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Value, CallError> {
        let bytes = self.bytes(&call).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| CallError::NotUnderstood { what: call.what(), why: error.to_string() })
    }

    /// The same for an answer that is text.
    pub(crate) async fn text(&self, path: &str) -> Result<String, CallError> {
        let bytes = self.bytes(&Call::get(path).accept("text/plain, */*")).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn bytes(&self, call: &Call<'_>) -> Result<Vec<u8>, CallError> {
        let deadline = tokio::time::Instant::now() + CALL_DEADLINE;
        let mut attempt = 0;
        loop {
            let error = match tokio::time::timeout_at(deadline, self.once(call)).await {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.no_answer(format!("gave up after {} s", CALL_DEADLINE.as_secs()))),
            };
            match call.pause(&error, attempt) {
                Some(pause) if tokio::time::Instant::now() + pause < deadline => tokio::time::sleep(pause).await,
                _ => return Err(error),
            }
            attempt += 1;
        }
    }

    async fn once(&self, call: &Call<'_>) -> Result<Vec<u8>, CallError> {
        let answer = self.calls.send(call.request()?).await.map_err(|e| CallError::of_transport(&self.url, e))?;
        self.read(answer).await
    }

    /// Reads a whole answer; one of 400 and above becomes a [`Refusal`].
    pub(super) async fn read(&self, answer: Response<Body>) -> Result<Vec<u8>, CallError> {
        warn(&answer);
        let (head, body) = answer.into_parts();
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes =
            Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| self.no_answer(error.to_string()))?;
        let bytes = bytes.to_bytes();
        if head.status.as_u16() >= 400 {
            let retry_after = retry_after.map(Duration::from_secs);
            return Err(CallError::Refused(Refusal::of(head.status.as_u16(), retry_after, &bytes)));
        }
        Ok(bytes.into())
    }

    pub(super) fn no_answer(&self, why: String) -> CallError {
        CallError::NoAnswer { url: self.url.clone(), why }
    }
}

/// Passes on the server's warnings, as kubectl does.
fn warn(answer: &Response<Body>) {
    for value in answer.headers().get_all("warning") {
        // `299 - "text"`
        let text = value.to_str().ok().and_then(|text| text.splitn(3, ' ').nth(2));
        if let Some(text) = text {
            crate::output::note(format_args!("Warning: {}", text.trim_matches('"').replace("\\\"", "\"")));
        }
    }
}
