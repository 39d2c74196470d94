//! An answer without an end, line by line.

use std::collections::VecDeque;

use http_body_util::BodyExt;
use kube::client::Body;

use super::{CALL_DEADLINE, Call, CallError, Server};

/// A line longer than this ends the stream: a message is at most 1 MiB, an object in a watch at most 1.5 MiB, and
/// JSON escapes can make six bytes of one.
const MAX_LINE: usize = 16 << 20;

/// The lines of a stream.
pub(crate) struct Lines {
    body: Body,
    url: String,
    ready: VecDeque<Vec<u8>>,
    partial: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// The next line, without its end; `None` when the server closed the stream.
    ///
    /// Cancel safe: what was read stays for the next call.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                None => {
                    self.ended = true;
                    if !self.partial.is_empty() {
                        return Ok(Some(std::mem::take(&mut self.partial)));
                    }
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.split(&data)?;
                    }
                }
                Some(Err(error)) => return Err(self.broken(mainstay_runtime::failure::chain_of(&error))),
            }
        }
    }

    fn split(&mut self, data: &[u8]) -> Result<(), CallError> {
        let mut pieces = data.split(|byte| *byte == b'\n');
        let mut piece = pieces.next().unwrap_or_default();
        for next in pieces {
            self.partial.extend_from_slice(piece);
            self.ready.push_back(std::mem::take(&mut self.partial));
            piece = next;
        }
        self.partial.extend_from_slice(piece);
        if self.partial.len() > MAX_LINE {
            return Err(self.broken(format!("a line is longer than {MAX_LINE} bytes")));
        }
        Ok(())
    }

    fn broken(&self, why: String) -> CallError {
        CallError::NoAnswer { url: self.url.clone(), why }
    }
}

impl Server {
    /// Opens a stream. The answer's head has the deadline of a call, its lines an idle bound.
    pub(crate) async fn open(&self, path: &str, accept: &str) -> Result<Lines, CallError> {
        let request = Call::get(path).accept(accept).request()?;
        let sent = tokio::time::timeout(CALL_DEADLINE, self.streams.send(request)).await;
        let answer = sent
            .map_err(|_| self.no_answer(format!("gave up after {} s", CALL_DEADLINE.as_secs())))?
            .map_err(|error| CallError::of_transport(&self.url, error))?;
        if answer.status().as_u16() >= 400 {
            self.read(answer).await?;
            return Err(self.no_answer("an error without words".to_owned()));
        }
        let (url, body) = (self.url.clone(), answer.into_body());
        Ok(Lines { body, url, ready: VecDeque::new(), partial: Vec::new(), ended: false })
    }
}
