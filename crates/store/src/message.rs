//! Session messages and run rows: durable, but outside the revision log.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The largest message, in bytes of its JSON.
pub const MAX_MESSAGE: usize = 1_048_576;

/// Messages to append to one session, in order, as one atomic item.
#[derive(Debug, Clone)]
pub struct Append {
    /// The session's uid.
    pub session: Arc<str>,
    /// Who sends them all.
    pub sender: Sender,
    /// Client-given ids and contents.
    pub messages: Vec<NewMessage>,
    /// What is kept of the session from then on.
    pub keep: Retention,
}

/// Who gave messages their ids. Each has a name space of its own, so that nobody's id is taken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    /// What runs in the session.
    Agent,
    /// People and their programs.
    User,
    /// The control plane itself.
    Platform,
}

/// The most that is kept of a session's messages, in the same moment in which more comes: the oldest go from readers,
/// who get an explicit gap. They go in strides, down to nine tenths of both bounds; the newest one always stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Messages.
    pub messages: u64,
    /// Bytes of their bodies, as they were given.
    pub bytes: u64,
}

impl Retention {
    /// Everything.
    pub const ALL: Self = Self { messages: u64::MAX, bytes: u64::MAX };

    /// Whether so much is more than may be kept.
    pub const fn is_over(self, messages: u64, bytes: u64) -> bool {
        messages > self.messages || bytes > self.bytes
    }

    /// What a stride ends with.
    #[must_use]
    pub const fn after_stride(self) -> Self {
        Self { messages: self.messages - self.messages / 10, bytes: self.bytes - self.bytes / 10 }
    }
}

/// One message to append.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Unique within the session and its sender; appending it again gives the first number.
    pub id: Arc<str>,
    /// `user`, `agent`, `event` or `system`.
    pub kind: Arc<str>,
    /// The message as JSON without its number: an object whose opening brace is followed by at least one member. The
    /// reader's bytes are `{"number":N,` + the rest.
    pub body: Bytes,
}

/// The outcome of one appended message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its number in the session, contiguous from 1.
    pub number: u64,
    /// It had been appended before.
    pub duplicate: bool,
}

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its number in the session.
    pub number: u64,
    /// `user`, `agent`, `event` or `system`.
    pub kind: Arc<str>,
    /// The whole message as JSON, with its number.
    pub body: Bytes,
}

/// Part of a session's messages.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Numbers after the asked one that retention has removed, inclusive.
    pub gap: Option<(u64, u64)>,
    /// In order, contiguous.
    pub messages: Vec<Message>,
    /// The last number given in this session, 0 when none.
    pub last: u64,
}

/// The newest heartbeat and input cursor of a session's run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// The run's number.
    pub run: u64,
    /// The Pod that reported.
    pub pod_uid: String,
    /// Wall-clock milliseconds since the Unix epoch of the last heartbeat.
    pub heartbeat_ms: i64,
    /// Highest user message that may have reached an agent process.
    pub offered: u64,
    /// Highest user message that was written to an agent process.
    pub delivered: u64,
    /// A tool call or turn is in progress.
    pub busy: bool,
    /// Wall-clock milliseconds of the last activity (a message either way, or busy).
    pub activity_ms: i64,
}
