//! The words between a shim and the init process of its sandbox: one JSON object per line over a socket pair.
//!
//! The pair is closed on exec, so the agent process has no part in it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// From the init process to its shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Report {
    /// It has a user namespace that waits for its maps.
    NeedsMaps,
    /// The sandbox is built; nothing was executed.
    Ready {
        /// What of the isolation is in force, in words.
        in_force: Vec<String>,
    },
    /// The sandbox could not be built, or the command not be executed.
    Failed {
        /// The root cause.
        message: String,
    },
    /// The agent process has been started.
    Started,
    /// The agent process has answered and stays: it is being ended, which is no failure.
    Answered,
    /// The agent process has ended; its last messages may still wait for the API.
    Exited {
        /// Its exit code, if it exited by itself.
        code: Option<i32>,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
    },
}

/// From the shim to the init process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Instruction {
    /// Your cgroups or maps are there: go on.
    Go,
    /// End the agent process.
    Stop {
        /// Seconds between SIGTERM and SIGKILL.
        grace_seconds: u64,
    },
}

/// Longest line that either side accepts.
const LINE_LIMIT: usize = 128 * 1024;

/// Sends one message.
pub(crate) fn send(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// Reads once, through `read`; `false` when the other side has closed.
    pub(crate) fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        let count = read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..count]);
        if self.buffer.len() > LINE_LIMIT {
            return Err(io::Error::other("a line is too long"));
        }
        Ok(count > 0)
    }

    /// The next whole message that was read.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// Waits for the next message, as long as the stream's own timeout allows.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self, stream: &UnixStream) -> io::Result<T> {
        loop {
            if let Some(message) = self.next()? {
                return Ok(message);
            }
            let mut stream = stream;
            if !self.fill(|chunk| stream.read(chunk))? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order() {
        let (here, there) = UnixStream::pair().unwrap();
        send(&here, &Report::NeedsMaps).unwrap();
        send(&here, &Report::Exited { code: Some(3), signal: None }).unwrap();
        drop(here);
        let mut reader = Reader::default();
        assert_eq!(reader.receive::<Report>(&there).unwrap(), Report::NeedsMaps);
        assert_eq!(reader.receive::<Report>(&there).unwrap(), Report::Exited { code: Some(3), signal: None });
        assert_eq!(reader.receive::<Report>(&there).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
