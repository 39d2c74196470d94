//! HTTP over a Unix socket: the way out of a sandbox.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::Tasks;

/// A connection to `socket` that buffers up to `buffer` bytes each way, made within `deadline`. Each request needs a deadline of its own.
///
/// # Errors
/// When nobody listens there, or not in time. Nothing was sent.
pub async fn connect(
    socket: &Path,
    buffer: usize,
    deadline: Duration,
    tasks: &Tasks,
) -> io::Result<SendRequest<Full<Bytes>>> {
    #[expect(clippy::disallowed_methods, reason = "the one place that makes clients")]
    let connecting = UnixStream::connect(socket);
    // A listener whose queue is full does not even refuse.
    let stream = timeout(deadline, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let mut builder = Builder::new();
    builder.max_buf_size(buffer);
    #[expect(clippy::disallowed_methods, reason = "the one place that makes clients")]
    let (requests, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // A connection's failure is its next request's.
    tasks.spawn("connection", async { drop(connection.await) });
    Ok(requests)
}
