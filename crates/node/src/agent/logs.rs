//! Reading a sandbox's log for `pods/log`: from the first line, the last few, or a time on, and on as it grows.
//!
//! A reader holds the file that it reads open, so rotation takes nothing from under it. It knows a newer file by what
//! stands in the directory at the end of its own, and a sandbox's end by the shim's lock: after that one last pass reads
//! what is left.

mod entry;
mod files;

use std::path::PathBuf;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt, try_unfold};
use mainstay_runtime::{Class, Classify, Reason, Timestamp};

use self::entry::Render;
use self::files::Files;
use super::notices::Watch;

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
pub enum LogError {
    /// No such Pod is known here, or its log was removed.
    #[error("the node agent has no log of this Pod")]
    NoSuchLog,
    /// The sandbox has not started.
    #[error("the Pod's sandbox has not started")]
    NotStarted,
    /// Reading failed.
    #[error("the log cannot be read")]
    Io(#[from] std::io::Error),
}

impl Classify for LogError {
    fn class(&self) -> Class {
        match self {
            Self::NoSuchLog => Class::Terminal(Reason::NotFound),
            Self::NotStarted | Self::Io(_) => Class::TRANSIENT,
        }
    }
}

/// Bytes of a log, as they are read.
pub type LogStream = BoxStream<'static, Result<Bytes, std::io::Error>>;

/// How to go on at the end of a log.
pub(super) struct Following {
    /// Notices of the log's directory.
    pub(super) watch: Watch,
    /// Comes true when the sandbox has gone.
    pub(super) ended: BoxFuture<'static, ()>,
}

struct Reading {
    source: Source,
    following: Option<Following>,
    /// The sandbox had gone before the last pass began.
    last_pass: bool,
}

/// What is read on a thread that may block.
struct Source {
    files: Files,
    render: Render,
}

/// The log in `dir`; ends at its present end without `following`. Blocks while it looks for the first line.
pub(super) fn read(dir: PathBuf, options: &LogOptions, following: Option<Following>) -> std::io::Result<LogStream> {
    let files = match options.tail_lines {
        Some(lines) => Files::open_at_tail(dir, lines)?,
        None => Files::open(dir)?,
    };
    let source = Source { files, render: Render::new(options) };
    Ok(try_unfold(Reading { source, following, last_pass: false }, next).boxed())
}

async fn next(mut reading: Reading) -> std::io::Result<Option<(Bytes, Reading)>> {
    loop {
        let mut source = reading.source;
        let read = tokio::task::spawn_blocking(move || (source.chunk(), source)).await;
        let (chunk, source) = read.map_err(std::io::Error::other)?;
        reading.source = source;
        if let Some(chunk) = chunk? {
            return Ok(Some((chunk, reading)));
        }
        if reading.last_pass || reading.source.render.is_full() {
            return Ok(None);
        }
        let Some(following) = &mut reading.following else { return Ok(None) };
        tokio::select! {
            () = following.watch.changed() => {}
            () = &mut following.ended => reading.last_pass = true,
        }
    }
}

impl Source {
    /// The next rendered bytes; `None` at the present end.
    fn chunk(&mut self) -> std::io::Result<Option<Bytes>> {
        while !self.render.is_full() {
            let Some(line) = self.files.lines()? else { break };
            let bytes = self.render.entries(&line);
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
