//! How a command fails: what is said, and the exit code that scripts see.

use std::io;
use std::process::ExitCode;

use mainstay_runtime::{Class, Classify as _, Failure};

use crate::connect::{CallError, Refusal};

/// Shown under `--help`; the one list of exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage, or a manifest that cannot be read
  3  what was named does not exist
  4  the server refused: a conflict, not allowed, or not valid
  5  the server cannot be reached
  6  timed out waiting
130  interrupted";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line or a manifest is wrong.
    #[error("{0}")]
    Usage(String),
    /// What was named is not there.
    #[error("{0}")]
    NotFound(String),
    /// The server, or a rule, refused.
    #[error("{0}")]
    Refused(String),
    /// No server answered.
    #[error("{0}")]
    Unreachable(String),
    /// What was waited for did not happen in time.
    #[error("{0}")]
    TimedOut(String),
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// The work ended as it should not have, and all was said already.
    #[error("")]
    Silent,
    /// The same, with the exit code of this failure.
    #[error("{0}")]
    Said(Box<Self>),
    /// The server or the demo ended with this.
    #[error("{0:#}")]
    Ended(#[from] anyhow::Error),
    /// Standard output could not be written.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    /// The exit code that scripts see.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Ended(error) if is_superseded(error) => 4,
            Self::Failed(_) | Self::Ended(_) | Self::Output(_) | Self::Silent => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Refused(_) => 4,
            Self::Unreachable(_) => 5,
            Self::TimedOut(_) => 6,
            Self::Interrupted => 130,
            Self::Said(failure) => return failure.exit_code(),
        })
    }

    /// Whether there is nothing to say: the reader of our output went away, or all was said.
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Self::Silent | Self::Said(_) => true,
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}

/// Whether somebody else has taken the place of what ended: to start it again would change nothing.
fn is_superseded(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<Failure>()).any(|failure| failure.class() == Class::Fenced)
}

impl From<CallError> for CliError {
    fn from(error: CallError) -> Self {
        let text = mainstay_runtime::failure::chain_of(&error);
        match error {
            CallError::Refused(Refusal { code: 404, .. }) => Self::NotFound(text),
            CallError::Refused(Refusal { code: 400..=403 | 405..=499, .. }) => Self::Refused(text),
            CallError::Refused(_) | CallError::NotUnderstood { .. } => Self::Failed(text),
            CallError::Unreachable { .. } | CallError::NoAnswer { .. } => Self::Unreachable(text),
        }
    }
}

/// What a command returns.
pub(crate) type CliResult<T = ()> = Result<T, CliError>;
