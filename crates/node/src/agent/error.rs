//! Why the node agent could not do something.

use std::borrow::Cow;
use std::io;

use mainstay_runtime::client::CallError;
use mainstay_runtime::fault::Injected;
use mainstay_runtime::{Class, Classify, Reason};

use crate::sandbox::SandboxError;

/// Why the node agent could not do something.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The API refused, or did not answer.
    #[error("{doing}")]
    Api {
        /// What was being attempted.
        doing: Cow<'static, str>,
        /// Its answer.
        source: CallError,
    },
    /// The API misses something that may be there any moment.
    #[error("{doing}")]
    NotYet {
        /// What was being attempted.
        doing: Cow<'static, str>,
        /// Its answer.
        source: CallError,
    },
    /// A system call failed.
    #[error("{doing}")]
    System {
        /// What was being attempted.
        doing: Cow<'static, str>,
        /// Why it failed.
        source: io::Error,
    },
    /// The sandbox could not be made or reached.
    #[error("{doing}")]
    Sandbox {
        /// What was being attempted.
        doing: Cow<'static, str>,
        /// Why it failed.
        source: SandboxError,
    },
    /// A Pod asks for what cannot be done; asking again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// A Pod asks for what this host cannot enforce.
    #[error("this host cannot enforce what the Pod asks for: {0}")]
    Unenforceable(String),
    /// The workspace is still another Pod's.
    #[error("workspace {key} is still in use by Pod {pod}")]
    WorkspaceBusy {
        /// Its key.
        key: String,
        /// Uid of the other Pod.
        pod: String,
    },
    /// A shim has seen a newer control plane than this one.
    #[error("a shim refused an order: {0}")]
    Fenced(String),
    /// A test asked for it.
    #[error(transparent)]
    Injected(#[from] Injected),
}

impl Classify for AgentError {
    fn class(&self) -> Class {
        match self {
            Self::Api { source, .. } => source.class(),
            Self::NotYet { .. } | Self::System { .. } | Self::WorkspaceBusy { .. } => Class::TRANSIENT,
            Self::Sandbox { source, .. } => source.class(),
            Self::Refused(_) => Class::Terminal(Reason::Invalid),
            Self::Unenforceable(_) => Class::Terminal(Reason::Unsupported),
            Self::Fenced(_) => Class::Fenced,
            Self::Injected(injected) => injected.class(),
        }
    }
}

/// Adds what was being attempted to what failed.
pub(crate) trait While<T> {
    /// Adds what was being attempted.
    fn during(self, doing: impl Into<Cow<'static, str>>) -> Result<T, AgentError>;
}

impl<T> While<T> for Result<T, CallError> {
    fn during(self, doing: impl Into<Cow<'static, str>>) -> Result<T, AgentError> {
        self.map_err(|source| AgentError::Api { doing: doing.into(), source })
    }
}

impl<T> While<T> for Result<T, io::Error> {
    fn during(self, doing: impl Into<Cow<'static, str>>) -> Result<T, AgentError> {
        self.map_err(|source| AgentError::System { doing: doing.into(), source })
    }
}

impl<T> While<T> for Result<T, SandboxError> {
    fn during(self, doing: impl Into<Cow<'static, str>>) -> Result<T, AgentError> {
        self.map_err(|source| AgentError::Sandbox { doing: doing.into(), source })
    }
}
