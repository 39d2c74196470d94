//! The agent process's output: each stream goes to the log as it is, and to the session line by line.

use std::io;
use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::adaptor::Adaptor;
use super::outbox::{Message, Outbox};

/// A longer line is split; each piece but the last is marked.
const LINE_LIMIT: usize = 256 * 1024;
const CHUNK: usize = 16 * 1024;

/// Where one stream goes.
pub(crate) struct Output {
    /// `stdout` or `stderr`.
    pub(crate) stream: &'static str,
    /// The run's number.
    pub(crate) run: u64,
    /// How lines become messages.
    pub(crate) adaptor: &'static dyn Adaptor,
    /// Takes the messages.
    pub(crate) outbox: Arc<Outbox>,
    /// Set while the agent process works on what it was asked.
    pub(crate) in_turn: watch::Sender<bool>,
}

impl Output {
    /// Reads `from` to its end, copying it to `log`.
    pub(crate) async fn pump(self, mut from: pipe::Receiver, mut log: pipe::Sender) {
        let mut chunk = vec![0; CHUNK];
        let mut lines = Lines::default();
        loop {
            let count = match from.read(&mut chunk).await {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            // The log's reader is the shim, with which we die.
            log.write_all(&chunk[..count]).await.ok();
            lines.buffer.extend_from_slice(&chunk[..count]);
            while let Some(line) = lines.next() {
                self.send(line).await;
            }
        }
        if let Some(line) = lines.rest() {
            self.send(line).await;
        }
    }

    async fn send(&self, line: Line) {
        let id = format!("r{}-{}-{}", self.run, self.stream, line.offset);
        let mut outgoing = self.adaptor.output(self.stream, &line.text);
        if line.split
            && let Some(data) = outgoing.data.as_object_mut()
        {
            data.insert("continues".into(), json!(true));
        }
        let (kind, text, data) = (outgoing.kind, outgoing.text, outgoing.data);
        self.outbox.push(&Message { id, kind, run: self.run, text, data }).await;
        if outgoing.ends_turn {
            self.in_turn.send_replace(false);
        }
    }
}

/// A line, where it began in its stream, and whether it goes on.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    offset: u64,
    text: String,
    split: bool,
}

/// Cuts a stream into lines.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that hold no line end.
    searched: usize,
    offset: u64,
}

impl Lines {
    fn next(&mut self) -> Option<Line> {
        let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n').map(|at| at + self.searched);
        match end {
            Some(end) if end <= LINE_LIMIT => Some(self.take(end, 1, false)),
            _ if self.buffer.len() > LINE_LIMIT => Some(self.take(character_boundary(&self.buffer), 0, true)),
            _ => {
                self.searched = self.buffer.len();
                if self.buffer.is_empty() && self.buffer.capacity() > CHUNK {
                    self.buffer = Vec::new();
                }
                None
            }
        }
    }

    fn rest(&mut self) -> Option<Line> {
        (!self.buffer.is_empty()).then(|| self.take(self.buffer.len(), 0, false))
    }

    fn take(&mut self, length: usize, skipped: usize, split: bool) -> Line {
        let text = String::from_utf8_lossy(&self.buffer[..length]).into_owned();
        self.buffer.drain(..length + skipped);
        self.searched = 0;
        let offset = self.offset;
        self.offset += (length + skipped) as u64;
        Line { offset, text, split }
    }
}

/// The last position up to the limit that is not within a UTF-8 character.
fn character_boundary(bytes: &[u8]) -> usize {
    let continues = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    (LINE_LIMIT - 3..=LINE_LIMIT).rev().find(|at| !continues(*at)).unwrap_or(LINE_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(input: &[u8]) -> Vec<Line> {
        let mut lines = Lines { buffer: input.to_vec(), ..Lines::default() };
        let mut got: Vec<_> = std::iter::from_fn(|| lines.next()).collect();
        got.extend(lines.rest());
        got
    }

    #[test]
    fn offsets_name_each_line_once() {
        let got: Vec<_> = cut(b"one\n\nthree").into_iter().map(|line| (line.offset, line.text)).collect();
        assert_eq!(got, [(0, "one".into()), (4, String::new()), (5, "three".into())]);
    }

    #[test]
    fn long_lines_are_split_between_characters() {
        let text = "ä".repeat(LINE_LIMIT);
        let got = cut(format!("x{text}\nend\n").as_bytes());
        assert_eq!(got.iter().map(|line| line.split).collect::<Vec<_>>(), [true, true, false, false]);
        let joined: String = got[..3].iter().map(|line| line.text.as_str()).collect();
        assert_eq!(joined, format!("x{text}"));
        assert_eq!(got[3].text, "end");
    }
}
