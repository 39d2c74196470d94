//! How calls of backends fail, and what to do about it.

use std::time::Duration;

use mainstay_runtime::client::HttpError;
use mainstay_runtime::failure::{Class, Classify, Reason};
use mainstay_runtime::http_class::class_of_status;
use mainstay_runtime::resilience::{CallFailure, Denied};
use serde::Deserialize;

/// A call that did not bring what it was made for.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// It was not made, or given up, by what is in front of the backend.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It brought no answer.
    #[error(transparent)]
    Call(HttpError),
    /// The backend said no.
    #[error("the backend answered {status} ({code:?})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why.
        code: Code,
        /// When to come back, if it said so.
        retry_after: Option<Duration>,
    },
    /// An effect was answered by something that cannot be read: it may have been carried out.
    #[error("the answer cannot be read")]
    Nonsense(#[source] serde_json::Error),
    /// An effect was answered by the answer to another: it may have been carried out.
    #[error("the answer is to something else")]
    Other,
    /// A look was answered by something that cannot be read. Nothing was to be done.
    #[error("what was looked up cannot be read")]
    Unread(#[source] serde_json::Error),
    /// The last look at the backend found it unwell.
    #[error("the backend does not answer when it is asked how it is")]
    Unwell,
    /// The call cannot be put into words that the backend takes.
    #[error("{0} cannot be part of a call")]
    Unspeakable(&'static str),
}

impl From<HttpError> for CloudError {
    /// A client's deadline is its class's, as the gate's is: whichever of them notices, it is one thing, counted as one.
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::TooLate(after) => Self::Denied(Denied::TooLate(after)),
            error => Self::Call(error),
        }
    }
}

/// Why a backend said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Code {
    /// A newer attempt of the operation has been there.
    OldToken,
    /// The step was undone.
    Undone,
    /// There is one of that name.
    AlreadyExists,
    /// There is none of that name.
    NotFound,
    /// It does not understand, or allow, what was asked for.
    Invalid,
    /// It did not say, or not in words that are known here; the status counts.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Classify for CloudError {
    fn class(&self) -> Class {
        match self {
            Self::Denied(denied) => denied.class(),
            Self::Call(error) => error.class(),
            Self::Refused { status, code, retry_after } => match code {
                Code::OldToken | Code::Undone => Class::Fenced,
                Code::AlreadyExists => Class::Terminal(Reason::AlreadyExists),
                Code::NotFound => Class::Terminal(Reason::NotFound),
                Code::Invalid => Class::Terminal(Reason::Invalid),
                Code::Unknown => class_of_status(*status, *retry_after).unwrap_or(Class::Indeterminate),
            },
            Self::Nonsense(_) | Self::Other => Class::Indeterminate,
            Self::Unread(_) | Self::Unwell => Class::TRANSIENT,
            Self::Unspeakable(_) => Class::Terminal(Reason::Invalid),
        }
    }
}

impl CallFailure for CloudError {
    fn denied(&self) -> Option<&Denied> {
        match self {
            Self::Denied(denied) => Some(denied),
            _ => None,
        }
    }

    fn blames_backend(&self) -> bool {
        match self {
            // It answers, in its own words: too many requests are the callers'.
            Self::Refused { status, .. } => *status >= 500,
            _ => matches!(self.class(), Class::Transient { .. } | Class::Indeterminate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_classed_by_their_code_and_else_by_their_status() {
        let retry_after = Some(Duration::from_secs(7));
        for (status, code, class) in [
            (409, Code::OldToken, Class::Fenced),
            (409, Code::Undone, Class::Fenced),
            (409, Code::AlreadyExists, Class::Terminal(Reason::AlreadyExists)),
            (409, Code::Unknown, Class::Conflict),
            (404, Code::NotFound, Class::Terminal(Reason::NotFound)),
            (422, Code::Invalid, Class::Terminal(Reason::Invalid)),
            (403, Code::Unknown, Class::Terminal(Reason::Forbidden)),
            (429, Code::Unknown, Class::Transient { retry_after }),
            (503, Code::Unknown, Class::Transient { retry_after }),
            (302, Code::Unknown, Class::Indeterminate),
        ] {
            assert_eq!(CloudError::Refused { status, code, retry_after }.class(), class, "{status} {code:?}");
        }
    }

    #[test]
    fn callers_mistakes_do_not_count_against_a_backend() {
        for (status, blamed) in [(400, false), (409, false), (429, false), (500, true), (503, true)] {
            let refused = CloudError::Refused { status, code: Code::Unknown, retry_after: None };
            assert_eq!(refused.blames_backend(), blamed, "{status}");
        }
        assert!(CloudError::Other.blames_backend(), "a backend that talks nonsense is sick");
        assert!(!CloudError::Unspeakable("name").blames_backend());
    }
}
