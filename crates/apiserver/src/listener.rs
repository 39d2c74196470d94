//! The API over TLS: HTTP/1.1 and HTTP/2 on one port.
//!
//! Bounded against slow and greedy peers: connections, handshake, head of a request, streams of a connection. On stop
//! the listener closes at once; connections drain until a deadline, and are then cut off.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::EXPECT;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::respond;
use crate::server::{ApiServer, Caller};
use crate::status::ApiError;

/// Pause after the system refused a connection (no descriptors), so that refusals do not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How much of a body that was refused unread is read all the same, and for how long.
const UNREAD_BYTES: usize = 32 << 20;
const UNREAD_FOR: Duration = Duration::from_secs(3);
/// Bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;

/// A bound port.
pub struct Listener {
    socket: TcpListener,
    tls: TlsAcceptor,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Listener {
    /// Binds a port; 0 lets the system choose.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn bind(address: SocketAddr, tls: TlsAcceptor) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, tls })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop`, then drains.
    pub async fn serve(self, server: ApiServer, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(server.limits().connections));
        let (graceful, cut) = (GracefulShutdown::new(), CancellationToken::new());
        let http = Arc::new(http(&server));
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = accept(&self.socket, &slots) => accepted,
            };
            let Some((stream, slot)) = accepted else { continue };
            let connection = Connection { server: server.clone(), http: http.clone(), tls: self.tls.clone(), slot };
            let (serve, cut) = (connection.serve(stream, graceful.watcher(), stop.clone()), cut.clone());
            drop(server.tasks().spawn("connection", async move {
                // What a request writes has a task of its own and is not cut.
                cut.run_until_cancelled(serve).await;
            }));
        }
        drop(self.socket);
        if tokio::time::timeout(server.limits().drain, graceful.shutdown()).await.is_err() {
            tracing::warn!("connections were still open when the time to drain was over; they are cut off");
        }
        // A peer that does not answer must not keep the server from its end.
        cut.cancel();
    }
}

/// The next connection, once there is a free slot for it.
async fn accept(socket: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn http(server: &ApiServer) -> auto::Builder<TokioExecutor> {
    let limits = server.limits();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_buf_size(MAX_HEAD.max(256 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .adaptive_window(false)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

struct Connection {
    server: ApiServer,
    http: Arc<auto::Builder<TokioExecutor>>,
    tls: TlsAcceptor,
    slot: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream, watcher: Watcher, stop: CancellationToken) {
        let _slot = self.slot;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let handshake = tokio::time::timeout(self.server.limits().handshake, self.tls.accept(stream));
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            stream = handshake => stream,
        };
        let stream = match stream {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
            Err(_) => return tracing::debug!("TLS handshake timed out"),
        };
        let (server, begun) = (self.server, CancellationToken::new());
        let patience = server.limits().header_read;
        let service = service_fn({
            let begun = begun.clone();
            move |request| {
                begun.cancel();
                answer(server.clone(), request)
            }
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service).into_owned();
        tokio::select! {
            biased;
            served = watcher.watch(connection) => if let Err(error) = served {
                tracing::debug!(error, "connection");
            },
            // Nothing is cut in its middle: there was no request yet.
            () = silence(begun, patience) => tracing::debug!("a peer connected and asked for nothing"),
        }
    }
}

/// Ends when no first request has come in time. HTTP's own clock runs only once it is known which version is spoken.
async fn silence(begun: CancellationToken, patience: Duration) {
    if tokio::time::timeout(patience, begun.cancelled()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// Answers one request. What may write runs on a task of its own: a peer that hangs up does not cut it in its middle.
async fn answer(server: ApiServer, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let tasks = server.tasks().clone();
    let reads = request.method().is_safe();
    let work = Box::pin(exchange(server, request));
    if reads {
        return Ok(work.await);
    }
    Ok(tasks.spawn("request", work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request ended without an answer");
        respond::failure(&ApiError::internal("the request ended without an answer"))
    }))
}

async fn exchange(server: ApiServer, request: Request<Incoming>) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    let waits = parts.headers.contains_key(EXPECT);
    let response = server.handle(Request::from_parts(parts, &mut body), Caller::Unknown).await;
    // Who asked first and was refused sends nothing; reading on would tell it to.
    if !waits && tokio::time::timeout(UNREAD_FOR, discard(body)).await.is_err() {
        tracing::debug!("a peer was too slow to send what nobody wanted to read");
    }
    response
}

/// Reads what a refused request still sends: a peer whose stream breaks off while it sends may never look at the
/// answer, and then reports a broken connection in place of the refusal.
async fn discard(mut body: Incoming) {
    let mut left = UNREAD_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, bytes::Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
