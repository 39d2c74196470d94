//! How the API server reaches a node agent: the trait that the agent implements.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use mainstay_api::exec::{ExecFrame, ExecRequest, FrameReader};
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

/// A log cannot be read, or a command not be run.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The node agent knows no such Pod, or its log was removed.
    #[error("the node agent has no log of this Pod")]
    NoSuchLog,
    /// The sandbox has not written a log yet.
    #[error("the Pod's sandbox has not started")]
    NotStarted,
    /// There is no sandbox to run a command in.
    #[error("the Pod's sandbox is not running")]
    NotRunning,
    /// The node runs as many commands as it may.
    #[error("too many commands run on the node")]
    TooMany,
    /// The node, or the sandbox, is of a version that cannot do this.
    #[error("the Pod's sandbox, or its node, was started by an earlier version, which cannot do this")]
    Unsupported,
    /// The agent of the Pod's node is not connected, or does not answer.
    #[error("the agent of node {0:?} is not connected")]
    Away(String),
    /// The agent failed.
    #[error("the agent of the node could not do it")]
    Io(#[from] std::io::Error),
}

impl Classify for LinkError {
    fn class(&self) -> Class {
        match self {
            Self::NoSuchLog | Self::NotRunning => Class::Terminal(Reason::NotFound),
            Self::Unsupported => Class::Terminal(Reason::Unsupported),
            Self::NotStarted | Self::TooMany | Self::Away(_) | Self::Io(_) => Class::TRANSIENT,
        }
    }
}

/// Bytes of a log, as they are read.
pub type LogStream = BoxStream<'static, Result<Bytes, std::io::Error>>;

/// What is said while a command runs.
pub type ExecFrames = BoxStream<'static, Result<ExecFrame, std::io::Error>>;

/// The node agent, as the API server sees it.
pub trait NodeLink: Send + Sync + fmt::Debug + 'static {
    /// The log of a Pod's container.
    fn logs(&self, pod_uid: &str, options: LogOptions) -> BoxFuture<'_, Result<LogStream, LinkError>>;

    /// Runs a command in a Pod's sandbox. The end of `input` ends it, and so does dropping the answer, whose last frame is
    /// [`ExecFrame::End`]; one without it broke off.
    fn exec(&self, request: ExecRequest, input: ExecFrames) -> BoxFuture<'_, Result<ExecFrames, LinkError>>;
}

/// Cuts bytes into the frames that were sent; it ends after the first error.
pub fn frames<E>(bytes: impl Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static) -> ExecFrames
where
    E: std::error::Error + Send + Sync + 'static,
{
    stream::try_unfold((bytes, FrameReader::default()), |(mut bytes, mut reader)| async move {
        loop {
            if let Some(frame) = reader.frame().map_err(std::io::Error::other)? {
                return Ok(Some((frame, (bytes, reader))));
            }
            match bytes.next().await {
                Some(chunk) => reader.push(&chunk.map_err(std::io::Error::other)?),
                None => return Ok(None),
            }
        }
    })
    .boxed()
}
