//! What a server is made of, and the limits that it keeps.

use std::time::Duration;

/// Limits of one server; the defaults are what an embedded server uses.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Over sockets only health and metrics are answered.
    pub health_only: bool,
    /// Bytes of a request body.
    pub body: usize,
    /// Bytes of a body of messages.
    pub messages_body: usize,
    /// Items of one page of a list, whatever `limit` asks for.
    pub page: usize,
    /// Objects of a kind that is not in memory that one request holds.
    pub on_disk: usize,
    /// Objects that one deletecollection removes.
    pub delete_collection: usize,
    /// Open watches and followed streams of the whole server.
    pub watches: usize,
    /// Open watches and followed streams of one identity.
    pub watches_per_identity: usize,
    /// Time for everything but the body of a stream.
    pub request: Duration,
    /// Longest life of a watch; `timeoutSeconds` may ask for less.
    pub watch_life: Duration,
    /// Time between bookmarks.
    pub bookmark: Duration,
    /// Time after which a withdrawn right ends a watch, at the latest.
    pub recheck: Duration,
    /// Open connections.
    pub connections: usize,
    /// Time to send a request's head.
    pub header_read: Duration,
    /// Time that a peer may take nothing of what waits for it before its stream, or its connection, is cut off.
    pub stall: Duration,
    /// Time that a connection may have no open request before it is closed.
    pub idle: Duration,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time for requests in flight when the server stops.
    pub drain: Duration,
    /// Requests and watches at a time on one HTTP/2 connection.
    pub streams: u32,
    /// Messages kept of a session; readers of older ones get a gap.
    pub messages_kept: u64,
    /// Bytes of messages kept of a session.
    pub messages_bytes: u64,
    /// Bytes of messages a second that a session takes from its agent, and as many from everyone else.
    pub messages_rate: u32,
    /// Bytes of messages that it takes at once from one that was silent.
    pub messages_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            health_only: false,
            body: 3 << 20,
            messages_body: 4 << 20,
            page: 10_000,
            on_disk: 20_000,
            delete_collection: 10_000,
            watches: 4_096,
            watches_per_identity: 1_024,
            request: Duration::from_secs(30),
            watch_life: Duration::from_hours(1),
            bookmark: Duration::from_secs(50),
            recheck: Duration::from_secs(3),
            connections: 4_096,
            header_read: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            idle: Duration::from_secs(90),
            handshake: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            streams: 1_024,
            messages_kept: 100_000,
            messages_bytes: 64 << 20,
            messages_rate: 4 << 20,
            messages_burst: 16 << 20,
        }
    }
}
