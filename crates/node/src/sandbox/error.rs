//! Why a sandbox could not be made or reached.

use std::borrow::Cow;
use std::io;

use mainstay_runtime::{Class, Classify, Reason};

/// Why a sandbox could not be made or reached.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Another shim has the run directory; what it runs is never run again.
    #[error("already claimed")]
    Claimed,
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// What was asked for cannot be enforced here.
    #[error("this host cannot enforce {0}")]
    Unsupported(String),
    /// The new shim or init process reported why it gave up.
    #[error("{0}")]
    Reported(String),
    /// A system call failed.
    #[error("{doing}")]
    System {
        /// What was being attempted.
        doing: Cow<'static, str>,
        /// Why it failed.
        source: io::Error,
    },
}

impl Classify for SandboxError {
    fn class(&self) -> Class {
        match self {
            Self::Claimed => Class::Conflict,
            Self::Invalid(_) => Class::Terminal(Reason::Invalid),
            Self::Unsupported(_) => Class::Terminal(Reason::Unsupported),
            Self::Reported(_) => Class::Terminal(Reason::SystemRefused),
            Self::System { .. } => Class::TRANSIENT,
        }
    }
}

/// Adds what was being attempted to a failed system call.
pub(crate) trait During<T> {
    /// Adds what was being attempted.
    fn during(self, doing: impl Into<Cow<'static, str>>) -> Result<T, SandboxError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, doing: impl Into<Cow<'static, str>>) -> Result<T, SandboxError> {
        self.map_err(|source| SandboxError::System { doing: doing.into(), source: source.into() })
    }
}
