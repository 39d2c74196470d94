//! What is said between a server and a node's agent while a command runs in a Pod (`POST /exec`).
//!
//! The server's side begins with [`ExecFrame::Start`]; after the answer 200, which comes once it has begun, both bodies are
//! frames: a byte that says what it is, four bytes of length, big-endian, and as many bytes. The node's side ends with
//! [`ExecFrame::End`]; one that ends without it broke. Other answers: 400, 409 when the Pod's sandbox is not running, 429 when
//! too many commands run on the node, 501 from one that cannot do this.
//!
//! Input is sent only as far as there is room at the node for it: [`INPUT_UNITS`] at first, and again what the node says that the
//! command has taken. So what is said besides, and that a side has gone, never waits behind input that a command does not read.

use std::fmt;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The most bytes of one frame.
pub const MOST: usize = 128 << 10;
/// The most bytes of a stream that are put into one frame.
pub const CHUNK: usize = 32 << 10;
/// Units of input that may be on the way.
pub const INPUT_UNITS: u32 = 64;
const UNIT: usize = 1 << 10;
const HEAD: usize = 5;

/// How many units a piece of input is: so that neither many bytes nor many pieces are on the way.
pub fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1)
}

/// What is to be run. It does not show the command, which may hold secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExecRequest {
    /// Uid of the Pod.
    pub pod_uid: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// It gets input.
    pub stdin: bool,
    /// Its output is wanted.
    pub stdout: bool,
    /// Its errors are wanted, apart; without a terminal only.
    pub stderr: bool,
    /// It gets a terminal.
    pub tty: bool,
}

impl fmt::Debug for ExecRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecRequest").field("pod_uid", &self.pod_uid).field("tty", &self.tty).finish_non_exhaustive()
    }
}

/// How a command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExecEnd {
    /// Its exit code, if it exited by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why neither is known: it could not be started, or was cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl ExecEnd {
    /// An end of which neither code nor signal is known.
    pub fn failed(why: impl Into<String>) -> Self {
        Self { failure: Some(why.into()), ..Self::default() }
    }
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A piece of what is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecFrame {
    /// Input.
    Stdin(Bytes),
    /// So many units of input were taken.
    Taken(u32),
    /// There is no more input.
    StdinEnd,
    /// Output.
    Stdout(Bytes),
    /// Errors.
    Stderr(Bytes),
    /// The terminal has another size.
    Resize(TerminalSize),
    /// What is to be run.
    Start(ExecRequest),
    /// It has ended.
    End(ExecEnd),
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const END: u8 = 3;
const RESIZE: u8 = 4;
const START: u8 = 5;
const TAKEN: u8 = 6;
const STDIN_END: u8 = 255;

/// What came is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what came is not what is said while a command runs")]
pub struct BadFrame;

impl ExecFrame {
    /// As it is sent.
    pub fn encode(&self) -> Bytes {
        let json = |value: serde_json::Result<Vec<u8>>| Bytes::from(value.unwrap_or_default());
        let (kind, body) = match self {
            Self::Stdin(bytes) => (STDIN, bytes.clone()),
            Self::Taken(units) => (TAKEN, json(serde_json::to_vec(units))),
            Self::StdinEnd => (STDIN_END, Bytes::new()),
            Self::Stdout(bytes) => (STDOUT, bytes.clone()),
            Self::Stderr(bytes) => (STDERR, bytes.clone()),
            Self::Resize(size) => (RESIZE, json(serde_json::to_vec(size))),
            Self::Start(request) => (START, json(serde_json::to_vec(request))),
            Self::End(end) => (END, json(serde_json::to_vec(end))),
        };
        let mut out = BytesMut::with_capacity(HEAD + body.len());
        out.put_u8(kind);
        out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        out.put(body);
        out.freeze()
    }

    fn decode(kind: u8, body: Bytes) -> Result<Self, BadFrame> {
        Ok(match kind {
            STDIN => Self::Stdin(body),
            TAKEN => Self::Taken(parsed(&body)?),
            STDIN_END => Self::StdinEnd,
            STDOUT => Self::Stdout(body),
            STDERR => Self::Stderr(body),
            RESIZE => Self::Resize(parsed(&body)?),
            START => Self::Start(parsed(&body)?),
            END => Self::End(parsed(&body)?),
            _ => return Err(BadFrame),
        })
    }
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadFrame> {
    serde_json::from_slice(body).map_err(|_| BadFrame)
}

/// Cuts what comes into frames; it holds one that is not whole, and what came with it.
#[derive(Debug, Default)]
pub struct FrameReader(BytesMut);

impl FrameReader {
    /// Takes what came.
    pub fn push(&mut self, chunk: &[u8]) {
        self.0.extend_from_slice(chunk);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// For one that is too long, or of no known form.
    pub fn frame(&mut self) -> Result<Option<ExecFrame>, BadFrame> {
        let Some(mut head) = self.0.get(..HEAD) else { return Ok(None) };
        let (kind, length) = (head.get_u8(), usize::try_from(head.get_u32()).unwrap_or(usize::MAX));
        if length > MOST {
            return Err(BadFrame);
        }
        if self.0.len() < HEAD + length {
            return Ok(None);
        }
        self.0.advance(HEAD);
        ExecFrame::decode(kind, self.0.split_to(length).freeze()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<ExecFrame> {
        let request = ExecRequest {
            pod_uid: "u".into(),
            command: vec!["sh".into(), "-c".into(), "s3cret".into()],
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        vec![
            ExecFrame::Start(request),
            ExecFrame::Stdin(Bytes::from_static(b"in")),
            ExecFrame::Taken(7),
            ExecFrame::StdinEnd,
            ExecFrame::Stdout(Bytes::new()),
            ExecFrame::Stderr(Bytes::from(vec![7; CHUNK])),
            ExecFrame::Resize(TerminalSize { width: 80, height: 24 }),
            ExecFrame::End(ExecEnd { code: Some(3), ..ExecEnd::default() }),
        ]
    }

    #[test]
    fn frames_are_read_as_they_were_sent_however_they_are_cut() {
        let sent: Vec<u8> = frames().iter().flat_map(|frame| frame.encode().to_vec()).collect();
        for size in [1, 4, 5, 6, 1000, sent.len()] {
            let (mut reader, mut read) = (FrameReader::default(), Vec::new());
            for chunk in sent.chunks(size) {
                reader.push(chunk);
                while let Some(frame) = reader.frame().unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames(), "in pieces of {size}");
        }
        assert!(!format!("{:?}", frames()).contains("s3cret"));
    }

    #[test]
    fn what_is_too_long_or_unknown_is_refused() {
        let length = u32::try_from(MOST + 1).unwrap().to_be_bytes();
        for wrong in [&[&[STDIN], &length[..]].concat()[..], &[9, 0, 0, 0, 0], &[RESIZE, 0, 0, 0, 1, b'x']] {
            let mut reader = FrameReader::default();
            reader.push(wrong);
            assert_eq!(reader.frame(), Err(BadFrame), "{wrong:?}");
        }
    }
}
