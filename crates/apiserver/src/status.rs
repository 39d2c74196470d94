//! Every error of the API is a `Status` object; this is the one place that makes them.
//!
//! [`ApiError`] carries what a `Status` says. Failures of the store and of fields are turned into it here and nowhere
//! else, so that the words, codes and reasons clients match on are the same on every path.

use std::fmt;
use std::time::Duration;

use mainstay_api::{FieldError, Kind};
use mainstay_runtime::http_class::class_of_status;
use mainstay_runtime::{Class, Classify};
use mainstay_store::StoreError;
use serde::Serialize;

/// A failed request, as the caller will read it.
#[derive(Debug, Clone)]
pub struct ApiError(Box<Status>);

/// The result of everything that answers a request.
pub type ApiResult<T> = Result<T, ApiError>;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    kind: &'static str,
    api_version: &'static str,
    metadata: Empty,
    #[serde(rename = "status")]
    outcome: &'static str,
    message: String,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    code: u16,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Empty {}

/// `details` of a `Status`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Its plural, or its kind for invalid objects, as upstream has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// What was wrong, field by field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

/// One of the causes of a `Status`.
#[derive(Debug, Clone, Serialize)]
pub struct Cause {
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The field, when the cause is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The object that a message is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Its kind.
    pub kind: &'a Kind,
    /// Its name; empty for the collection.
    pub name: &'a str,
}

impl About<'_> {
    fn details(&self) -> Details {
        Details {
            name: self.name.to_owned(),
            group: self.kind.group.to_owned(),
            kind: self.kind.plural.to_owned(),
            ..Details::default()
        }
    }
}

/// `sessions.mainstay.dev "x"`, as upstream's messages begin.
impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.kind.qualified(), self.name)
    }
}

impl ApiError {
    /// Any `Status`; prefer the named constructors.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Status {
            kind: "Status",
            api_version: "v1",
            metadata: Empty {},
            outcome: "Failure",
            message: message.into(),
            reason,
            details: None,
            code,
        }))
    }

    fn about(mut self, about: About<'_>) -> Self {
        self.0.details = Some(about.details());
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &'static str, field: &str, message: impl Into<String>) -> Self {
        let details = self.0.details.get_or_insert_default();
        details.causes.push(Cause { reason, message: message.into(), field: field.to_owned() });
        self
    }

    /// Says when to come back, in the body and in `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = Some(wait.as_secs().max(1));
        self
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(401, "Unauthorized", message)
    }

    /// 403 about an object; `why` completes `... is forbidden: `.
    pub fn forbidden(about: About<'_>, why: impl fmt::Display) -> Self {
        let message = if about.name.is_empty() {
            format!("{} is forbidden: {why}", about.kind.qualified())
        } else {
            format!("{about} is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).about(about)
    }

    /// 404: no such object.
    pub fn not_found(about: About<'_>) -> Self {
        Self::new(404, "NotFound", format!("{about} not found")).about(about)
    }

    /// 404: no such path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 406.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }

    /// 409: the name is taken.
    pub fn already_exists(about: About<'_>) -> Self {
        Self::new(409, "AlreadyExists", format!("{about} already exists")).about(about)
    }

    /// 409: someone wrote first, or a precondition failed; `why` completes the sentence.
    pub fn conflict(about: About<'_>, why: impl fmt::Display) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {about}: {why}")).about(about)
    }

    /// 409: the caller was replaced by somebody with a newer term, and is to stop.
    pub fn fenced(why: impl Into<String>) -> Self {
        Self::new(409, "Fenced", why)
    }

    /// 401: the caller's credentials were good until somebody took the caller's place, who is to stop.
    pub fn superseded(why: impl Into<String>) -> Self {
        Self::new(401, "Fenced", why)
    }

    /// 409: the object has another resourceVersion.
    pub fn modified(about: About<'_>) -> Self {
        Self::conflict(
            about,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 410: history that was asked for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415; `accepted` lists the media types that would do.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: fields are wrong.
    pub fn invalid(about: About<'_>, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            more => format!("[{}]", more.join(", ")),
        };
        let kind = if about.kind.group.is_empty() {
            about.kind.kind.to_owned()
        } else {
            format!("{}.{}", about.kind.kind, about.kind.group)
        };
        let mut error = Self::new(422, "Invalid", format!("{kind} \"{}\" is invalid: {list}", about.name)).about(about);
        let details = error.0.details.get_or_insert_default();
        about.kind.kind.clone_into(&mut details.kind);
        details.causes = errors
            .iter()
            .map(|one| Cause { reason: one.fault.reason(), message: one.message(), field: one.path.clone() })
            .collect();
        error
    }

    /// 422 without an object: a patch that cannot be applied.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// 429: a limit of this server.
    pub fn too_many_requests(message: impl Into<String>) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(Duration::from_secs(1))
    }

    /// 500.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message).retry_after(Duration::from_secs(1))
    }

    /// 504: the server gave up waiting.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message).retry_after(Duration::from_secs(1))
    }

    /// What the store refused, in the API's words.
    pub fn from_store(error: &StoreError, about: About<'_>) -> Self {
        match error {
            StoreError::Exists(_) => Self::already_exists(about),
            StoreError::Missing => Self::not_found(about),
            StoreError::Conflict(_) | StoreError::Unmet(_) | StoreError::Fenced(_) => Self::modified(about),
            StoreError::Deposed(_) => Self::fenced(format!("{error}: another leads")),
            StoreError::Expired { .. } | StoreError::Future { .. } => Self::from_history(error),
            StoreError::TooLarge { size, limit } => {
                Self::too_large(format!("{about} would take {size} bytes, more than the limit of {limit}"))
            }
            StoreError::Busy => Self::too_many_requests("too many writes are waiting; try again later"),
            StoreError::Full => {
                Self::new(507, "InsufficientStorage", error.to_string()).retry_after(Duration::from_secs(5))
            }
            StoreError::Away(_) | StoreError::Closed | StoreError::Locked { .. } | StoreError::Moved { .. } => {
                Self::unavailable(error.to_string())
            }
            StoreError::NewerSchema { .. } => Self::internal(error),
            // The write may or may not be stored: 504, so that the caller looks before it repeats.
            StoreError::Database(_) => {
                tracing::error!(error = %mainstay_runtime::failure::chain_of(error), "the store failed");
                Self::timeout("the store did not confirm; the change may or may not be stored")
            }
        }
    }

    /// A revision that lies outside of what the store retains.
    pub fn from_history(error: &StoreError) -> Self {
        match error {
            StoreError::Expired { asked, floor } => {
                Self::expired(format!("too old resource version: {asked} ({floor})"))
            }
            StoreError::Future { asked, current } => Self::timeout(format!(
                "Too large resource version: {asked}, current: {current}"
            ))
            .with_cause("ResourceVersionTooLarge", "", "Too large resource version"),
            other => Self::unavailable(other.to_string()),
        }
    }

    /// The HTTP status.
    pub fn code(&self) -> u16 {
        self.0.code
    }

    /// The reason.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Seconds for `Retry-After`, when the failure is a passing one.
    pub fn retry_seconds(&self) -> Option<u64> {
        self.0.details.as_ref().and_then(|details| details.retry_after_seconds)
    }

    /// The `Status` as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&*self.0).unwrap_or_default()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.0.message, self.0.code, self.0.reason)
    }
}

impl std::error::Error for ApiError {}

/// For those within the server who do what a request could ask for, too.
impl Classify for ApiError {
    fn class(&self) -> Class {
        if self.0.reason == "Fenced" {
            return Class::Fenced;
        }
        class_of_status(self.0.code, None).unwrap_or(Class::TRANSIENT)
    }
}

#[cfg(test)]
mod tests;
