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
/// So is one that would be longer than this as a JSON string, where a control character is six bytes: the API takes
/// messages of up to 1 MiB.
const ENCODED_LIMIT: usize = 960 * 1024;
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
        let mut within = None;
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
                self.send(line, &mut within).await;
            }
        }
        while let Some(line) = lines.rest() {
            self.send(line, &mut within).await;
        }
    }

    /// Sends a line or a piece of one. `within` a line that was split, it says whether that ends the agent's turn.
    async fn send(&self, line: Line, within: &mut Option<bool>) {
        let id = format!("r{}-{}-{}", self.run, self.stream, line.offset);
        let whole = within.is_none() && !line.split;
        let mut outgoing = if whole {
            self.adaptor.output(self.stream, &line.text)
        } else {
            self.adaptor.piece(self.stream, &line.text, within.is_none())
        };
        let ends_turn = within.take().unwrap_or(outgoing.ends_turn);
        if line.split {
            *within = Some(ends_turn);
        }
        if line.split
            && let Some(data) = outgoing.data.as_object_mut()
        {
            data.insert("continues".into(), json!(true));
        }
        let (kind, text, data) = (outgoing.kind, outgoing.text, outgoing.data);
        self.outbox.push(&Message { id, kind, run: self.run, text, data }).await;
        if ends_turn && !line.split {
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
        if end.is_none() && self.buffer.len() <= LINE_LIMIT {
            self.searched = self.buffer.len();
            if self.buffer.is_empty() && self.buffer.capacity() > CHUNK {
                self.buffer = Vec::new();
            }
            return None;
        }
        let length = end.unwrap_or(self.buffer.len());
        let piece = piece(&self.buffer[..length]);
        Some(if piece < length { self.take(piece, 0, true) } else { self.take(length, 1, false) })
    }

    /// What is left at the end of the stream, which may be more than one piece.
    fn rest(&mut self) -> Option<Line> {
        let length = self.buffer.len();
        let piece = piece(&self.buffer);
        (length > 0).then(|| self.take(piece, 0, piece < length))
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

/// How much of a line one message can take: all of it, or up to a character's beginning.
fn piece(line: &[u8]) -> usize {
    let mut encoded = 0;
    let too_much = |(at, byte): (usize, &u8)| {
        encoded += encoded_size(*byte);
        (at == LINE_LIMIT || encoded > ENCODED_LIMIT).then_some(at)
    };
    let Some(end) = line.iter().enumerate().find_map(too_much) else { return line.len() };
    let continues = |at: &usize| line.get(*at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    (end.saturating_sub(3)..=end).rev().find(|at| !continues(at)).unwrap_or(end)
}

/// Bytes of a byte in a JSON string, at most: what is no text becomes a character of three.
const fn encoded_size(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | 0x08 | b'\t' | b'\n' | 0x0c | b'\r' => 2,
        0..0x20 => 6,
        0x80.. => 3,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(input: &[u8]) -> Vec<Line> {
        let mut lines = Lines { buffer: input.to_vec(), ..Lines::default() };
        let mut got: Vec<_> = std::iter::from_fn(|| lines.next()).collect();
        got.extend(std::iter::from_fn(|| lines.rest()));
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
    #[test]
    fn no_piece_is_longer_as_json_than_the_api_takes() {
        for (byte, count) in [(0, 400_000), (0xff, 400_000), (b'"', 600_000), (b'x', 600_000)] {
            let mut input = vec![byte; count];
            for end in ["", "\n"] {
                input.extend_from_slice(end.as_bytes());
                let got = cut(&input);
                let sizes = got.iter().map(|line| serde_json::to_string(&line.text).unwrap().len());
                assert!(sizes.max().unwrap() < 1_000_000, "{byte}");
                assert_eq!(got.iter().map(|line| line.text.chars().count()).sum::<usize>(), count, "{byte}");
                assert!(got.iter().rev().skip(1).all(|line| line.split) && !got.last().unwrap().split, "{byte}");
            }
        }
    }
}
