//! The API over TLS: HTTP/1.1 and HTTP/2 on one port.
//!
//! Bounded against slow and greedy peers: connections, handshake, head of a request, streams of a connection, the time
//! in which a peer takes nothing, and that in which it asks for nothing. On stop the listener closes at once;
//! connections drain until a deadline, and are then cut off.

mod activity;
mod pace;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::EXPECT;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::respond;
use crate::server::{ApiServer, Caller};
use crate::status::ApiError;
use crate::tls::Peer;
use activity::{Activity, Exchange};
use pace::{Paced, Streams};

/// Pause after the system refused a connection (no descriptors), so that refusals do not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How much of a body that was refused unread is read all the same, and for how long.
const UNREAD_BYTES: usize = 32 << 20;
const UNREAD_FOR: Duration = Duration::from_secs(3);
/// A peer of which nothing is heard for so long is asked by the kernel, again and again, whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_AGAIN: Duration = Duration::from_secs(10);
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

    /// A port that is bound already, with all connections that wait there.
    pub fn over(socket: TcpListener, tls: TlsAcceptor) -> Self {
        Self { socket, tls }
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
        let most = server.limits().connections.min(Semaphore::MAX_PERMITS);
        let (slots, cut) = (Arc::new(Semaphore::new(most)), CancellationToken::new());
        let http = Arc::new(http(&server));
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = accept(&self.socket) => accepted,
            };
            let Some(stream) = accepted else { continue };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                // Closed, it knows where it stands; one that is left waiting does not.
                server.metrics().connection_refused();
                tracing::debug!(most, "a connection is one too many and is closed");
                continue;
            };
            let connection = Connection { server: server.clone(), http: http.clone(), tls: self.tls.clone(), slot };
            let (serve, cut) = (connection.serve(stream, stop.clone()), cut.clone());
            drop(server.tasks().spawn("connection", async move {
                // What a request writes has a task of its own and is not cut.
                cut.run_until_cancelled(serve).await;
            }));
        }
        drop(self.socket);
        let drained = slots.acquire_many(u32::try_from(most).unwrap_or(u32::MAX));
        if tokio::time::timeout(server.limits().drain, drained).await.is_err() {
            tracing::warn!("connections were still open when the time to drain was over; they are cut off");
        }
        // A peer that does not answer must not keep the server from its end.
        cut.cancel();
    }
}

async fn accept(socket: &TcpListener) -> Option<TcpStream> {
    match socket.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// What the kernel is to know of a connection.
fn prepare(stream: &TcpStream, stall: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // The kernel gives up a peer that acknowledges nothing, or leaves its window shut, for so long.
    sockopt::set_tcp_user_timeout(stream, u32::try_from(stall.as_millis()).unwrap_or(u32::MAX))?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_AGAIN)?;
    Ok(())
}

fn http(server: &ApiServer) -> auto::Builder<Streams> {
    let limits = server.limits();
    let mut builder = auto::Builder::new(Streams { stall: limits.stall });
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
    http: Arc<auto::Builder<Streams>>,
    tls: TlsAcceptor,
    slot: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream, stop: CancellationToken) {
        let _slot = self.slot;
        let limits = self.server.limits().clone();
        if let Err(error) = prepare(&stream, limits.stall) {
            tracing::debug!(%error, "a socket's options");
        }
        let handshake = tokio::time::timeout(limits.handshake, self.tls.accept(stream));
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
        let activity = Activity::new();
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let caller = shown.and_then(Peer::read).map_or(Caller::Unknown, |peer| Caller::Certified(Arc::new(peer)));
        let service = service_fn({
            let (server, activity) = (self.server, activity.clone());
            move |request| answer(server.clone(), request, caller.clone(), activity.exchange())
        });
        let mut connection = pin!(self.http.serve_connection_with_upgrades(TokioIo::new(stream), service));
        tokio::select! {
            biased;
            served = connection.as_mut() => return ended(served),
            () = stop.cancelled() => {}
            // Before the first request HTTP's own clock does not run: it is not known yet which version is spoken.
            () = activity.quiet(limits.header_read, limits.idle) => if !activity.was_used() {
                return tracing::debug!("a peer connected and asked for nothing");
            }
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            biased;
            served = connection.as_mut() => ended(served),
            // Nothing is cut in its middle: there is no request, and this peer does not say goodbye.
            () = activity.over(limits.drain) => {}
        }
    }
}

fn ended(served: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = served {
        tracing::debug!(error, "connection");
    }
}

/// Answers one request. What may write runs on a task of its own: a peer that hangs up does not cut it in its middle.
async fn answer(
    server: ApiServer,
    request: Request<Incoming>,
    caller: Caller,
    exchange: Exchange,
) -> Result<Response<Paced>, Infallible> {
    let tasks = server.tasks().clone();
    let reads = request.method().is_safe();
    let work = Box::pin(carry_out(server, request, caller));
    let response = if reads {
        work.await
    } else {
        tasks.spawn("request", work).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request ended without an answer");
            respond::failure(&ApiError::internal("the request ended without an answer"))
        })
    };
    Ok(response.map(|body| Paced::new(body, exchange)))
}

async fn carry_out(server: ApiServer, request: Request<Incoming>, caller: Caller) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    let waits = parts.headers.contains_key(EXPECT);
    let response = server.handle(Request::from_parts(parts, &mut body), caller).await;
    // Who asked first and was refused sends nothing; reading on would tell it to.
    if !waits {
        read_off(body).await;
    }
    response
}

/// Reads what a refused request still sends, within bounds: a peer whose stream breaks off while it sends may never look at
/// the answer, and then reports a broken connection in place of the refusal.
pub async fn read_off(body: Incoming) {
    if tokio::time::timeout(UNREAD_FOR, discard(body)).await.is_err() {
        tracing::debug!("a peer was too slow to send what nobody wanted to read");
    }
}

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
