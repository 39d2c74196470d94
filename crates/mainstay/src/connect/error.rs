//! Failures of calls, classed where they are born.

use std::error::Error;
use std::io;
use std::time::Duration;

use mainstay_runtime::client::class_of;
use mainstay_runtime::failure::{Class, Classify};
use mainstay_runtime::http_class::class_of_status;
use serde_json::Value;

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The server answered with an error.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// No connection could be made: nothing was sent.
    #[error("cannot reach the server at {url}{hint}")]
    Unreachable {
        /// Where we looked.
        url: String,
        /// What to do about it.
        hint: &'static str,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The request was sent, or may have been, and no whole answer came.
    #[error("no answer from the server at {url}: {why}")]
    NoAnswer {
        /// Where we asked.
        url: String,
        /// What happened.
        why: String,
    },
    /// The answer is not what it should be.
    #[error("the server's answer to {what} could not be understood: {why}")]
    NotUnderstood {
        /// The request.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
}

/// An answer of 400 or above.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) code: u16,
    /// Its message.
    pub(crate) message: String,
    /// The fields at fault: path and what is wrong.
    pub(crate) causes: Vec<(String, String)>,
    /// How long the server asked us to wait.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that needs no question to the server.
    pub(crate) fn local(code: u16, message: String) -> Self {
        Self { code, message, causes: Vec::new(), retry_after: None }
    }

    /// Reads a Status object, or whatever else the body is.
    pub(crate) fn of(code: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let status: Value = serde_json::from_slice(body).unwrap_or_default();
        let said = status["message"].as_str().filter(|message| !message.is_empty()).map(str::to_owned);
        let message = said.unwrap_or_else(|| {
            let text: String = String::from_utf8_lossy(body).trim().chars().take(500).collect();
            if text.is_empty() { format!("the server answered {code}") } else { format!("{code}: {text}") }
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let causes = status["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
        Self {
            code,
            message,
            causes: causes.iter().map(|cause| (text(&cause["field"]), text(&cause["message"]))).collect(),
            retry_after,
        }
    }
}

impl CallError {
    /// A failure of the transport, classed by whether anything was sent.
    pub(super) fn of_transport(url: &str, error: kube::Error) -> Self {
        // Nothing was sent.
        if class_of(&error) == Class::TRANSIENT {
            return Self::Unreachable { url: url.to_owned(), hint: hint(&error), source: Box::new(error) };
        }
        Self::NoAnswer { url: url.to_owned(), why: mainstay_runtime::failure::chain_of(&error) }
    }

    /// A stream that brought nothing for too long.
    pub(crate) fn silent(url: &str, span: Duration) -> Self {
        Self::NoAnswer { url: url.to_owned(), why: format!("silent for {} s", span.as_secs()) }
    }

    /// The HTTP status of the answer, if there was one.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Unreachable { .. } | Self::NoAnswer { .. } | Self::NotUnderstood { .. } => None,
        }
    }

    /// Whether the object is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether it may pass by itself.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.class(), Class::Transient { .. } | Class::Indeterminate)
    }
}

impl Classify for CallError {
    fn class(&self) -> Class {
        match self {
            Self::Refused(refusal) => class_of_status(refusal.code, refusal.retry_after)
                .unwrap_or(Class::Terminal(mainstay_runtime::failure::Reason::Unsupported)),
            Self::Unreachable { .. } => Class::TRANSIENT,
            Self::NoAnswer { .. } => Class::Indeterminate,
            Self::NotUnderstood { .. } => Class::Terminal(mainstay_runtime::failure::Reason::Unsupported),
        }
    }
}

fn io_kinds(error: &kube::Error) -> impl Iterator<Item = io::ErrorKind> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    std::iter::from_fn(move || {
        let current = next?;
        next = current.source();
        Some(current.downcast_ref::<io::Error>().map(io::Error::kind))
    })
    .flatten()
}

fn hint(error: &kube::Error) -> &'static str {
    if io_kinds(error).any(|kind| kind == io::ErrorKind::ConnectionRefused) {
        ": nothing listens there. Start it with `mainstay serve`, or name another with --server or --kubeconfig"
    } else {
        ""
    }
}
