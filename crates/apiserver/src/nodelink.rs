//! How the API server reaches a node agent: the trait that the agent implements.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use mainstay_runtime::{Class, Classify, Reason, Timestamp};

/// Which part of a log is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on as the log grows, until the sandbox ends.
    pub follow: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only lines written at or after this time.
    pub since: Option<Timestamp>,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
}

/// A log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The node agent knows no such Pod, or its log was removed.
    #[error("the node agent has no log of this Pod")]
    NoSuchLog,
    /// The sandbox has not written a log yet.
    #[error("the Pod's sandbox has not started")]
    NotStarted,
    /// The agent of the Pod's node is not connected, or does not answer.
    #[error("the agent of node {0:?} is not connected")]
    Away(String),
    /// Reading failed.
    #[error("the log cannot be read")]
    Io(#[from] std::io::Error),
}

impl Classify for LinkError {
    fn class(&self) -> Class {
        match self {
            Self::NoSuchLog => Class::Terminal(Reason::NotFound),
            Self::NotStarted | Self::Away(_) | Self::Io(_) => Class::TRANSIENT,
        }
    }
}

/// Bytes of a log, as they are read.
pub type LogStream = BoxStream<'static, Result<Bytes, std::io::Error>>;

/// The node agent, as the API server sees it.
pub trait NodeLink: Send + Sync + fmt::Debug + 'static {
    /// The log of a Pod's container.
    fn logs(&self, pod_uid: &str, options: LogOptions) -> BoxFuture<'_, Result<LogStream, LinkError>>;
}
