//! Hands user messages to the agent process, in order, each once.
//!
//! The cursor is stored around the write: `offered` before, `delivered` after. Between the two a crash leaves a message
//! that the dead run may have seen, and the API marks it so for the next run.

use std::time::Duration;

use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;

use super::adaptor::Adaptor;
use super::api::{Api, Pace};
use super::cursor::{Position, Speaker, put};

/// A follow without a word for this long, not even an empty line, is dead.
const IDLE: Duration = Duration::from_secs(45);
/// Longest line of the stream: a message of 1 MiB, encoded.
const LINE_LIMIT: usize = 8 * 1024 * 1024;

/// What carries user messages inwards.
pub(crate) struct Input {
    /// For the messages themselves.
    pub(crate) stream: Api,
    /// For the cursor.
    pub(crate) cursor: Api,
    /// Who stores the cursor.
    pub(crate) speaker: Speaker,
    /// Where the cursor is.
    pub(crate) position: watch::Sender<Position>,
    /// How messages are framed.
    pub(crate) adaptor: &'static dyn Adaptor,
    /// Set while the agent process works on what it was asked.
    pub(crate) in_turn: watch::Sender<bool>,
    /// End the agent's input once it was asked, or has answered.
    pub(crate) stop_on_finish: bool,
}

/// One line of the stream.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Gap { gap: Gap },
    Message(UserMessage),
}

#[derive(Debug, Deserialize)]
struct Gap {
    to: u64,
}

#[derive(Debug, Deserialize)]
struct UserMessage {
    number: u64,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    text: String,
}

/// Why reading the stream ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The stream ended or broke; there may be more.
    Stream,
    /// The agent process takes no more input.
    Agent,
}

impl Input {
    /// Carries messages until the agent process takes no more; then its standard input is closed. Returns whether that is
    /// because it has answered what it was asked, and is to end then.
    pub(crate) async fn carry(mut self, mut stdin: pipe::Sender) -> bool {
        if !self.stop_on_finish {
            self.follow(&mut stdin).await;
            return false;
        }
        let before = self.position.borrow().delivered;
        // What is there already is what the run is asked.
        if self.read(&mut stdin, false).await == Ended::Agent || !self.adaptor.has_turns() {
            return false;
        }
        let asked = self.position.borrow().delivered > before;
        let mut in_turn = self.in_turn.subscribe();
        tokio::select! {
            () = self.follow(&mut stdin) => false,
            _ = in_turn.wait_for(|working| !working) => asked,
        }
    }

    async fn follow(&mut self, stdin: &mut pipe::Sender) {
        while self.read(stdin, true).await == Ended::Stream {}
    }

    /// Reads the stream once (until it was read well, if it is not followed).
    async fn read(&mut self, stdin: &mut pipe::Sender, follow: bool) -> Ended {
        let mut pace = Pace::new();
        loop {
            let after = self.position.borrow().delivered;
            let path = format!("/messages?types=user&after={after}&follow={follow}");
            let Ok(mut body) = self.stream.open(&path).await else {
                pace.pause().await;
                continue;
            };
            let mut buffer = Vec::new();
            loop {
                match timeout(IDLE, body.frame()).await {
                    Ok(Some(Ok(frame))) => buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                    Ok(None) if !follow => return Ended::Stream,
                    Ok(None | Some(Err(_))) | Err(_) => break,
                }
                match self.take_lines(&mut buffer, stdin).await {
                    Ok(true) => {}
                    Ok(false) => return Ended::Agent,
                    Err(()) => break,
                }
            }
            // A stream that carried something was sound; one that keeps ending at once is not asked in a tight loop.
            if self.position.borrow().delivered > after {
                pace = Pace::new();
            }
            pace.pause().await;
        }
    }

    /// Handles the whole lines in `buffer`: `Ok(false)` when the agent takes no more, `Err` when they make no sense.
    async fn take_lines(&mut self, buffer: &mut Vec<u8>, stdin: &mut pipe::Sender) -> Result<bool, ()> {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if line.len() == 1 {
                continue;
            }
            match serde_json::from_slice(&line).map_err(drop)? {
                Line::Gap { gap } => {
                    self.position.send_modify(|position| position.delivered = position.delivered.max(gap.to));
                }
                Line::Message(message) => {
                    if !self.deliver(&message, stdin).await {
                        return Ok(false);
                    }
                }
            }
        }
        if buffer.len() > LINE_LIMIT { Err(()) } else { Ok(true) }
    }

    /// Writes one message to the agent process; `false` when it takes no more.
    async fn deliver(&mut self, message: &UserMessage, stdin: &mut pipe::Sender) -> bool {
        let Position { offered, delivered } = *self.position.borrow();
        if message.number <= delivered || message.kind != "user" {
            return true;
        }
        let offer = Position { offered: offered.max(message.number), delivered };
        self.position.send_replace(offer);
        put(&mut self.cursor, &self.speaker, offer, true, true).await;
        self.in_turn.send_replace(self.adaptor.has_turns());
        if stdin.write_all(&self.adaptor.input(&message.text)).await.is_err() {
            return false;
        }
        let done = Position { delivered: message.number, ..offer };
        self.position.send_replace(done);
        let busy = *self.in_turn.borrow();
        put(&mut self.cursor, &self.speaker, done, busy, true).await;
        true
    }
}
