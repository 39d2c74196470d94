//! Calls over a connection that the other side opened.
//!
//! One side opens a connection as a client of HTTP/1.1 and asks for an upgrade ([`open`]); from then on the other is the
//! client on it, of HTTP/2 ([`Reversed`]). So a machine that nobody can reach is asked all the same. A peer that does not
//! answer pings is left.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "over the connections of `pool`, or of a peer"
)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Empty;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::upgrade::Upgraded;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::http::HttpError;
use super::pool::{Confined, confine, pool};
use super::{CALL_DEADLINE, CONNECT_TIMEOUT};

/// Between pings on a connection that was turned round, and how long an answer to one may take.
pub const LINK_PING: Duration = Duration::from_secs(4);
/// The longest silence on such a connection: pings are never as far apart.
const SILENCE: Duration = Duration::from_secs(30);

/// Bytes of one call that may be under way each way before its reader has taken any.
pub const LINK_STREAM_WINDOW: u32 = 128 << 10;
/// The same of all calls of a connection: as many as may be under way at once ([`LINK_CALLS`]) have room, so that none whose reader
/// stands still holds up another.
pub const LINK_WINDOW: u32 = LINK_STREAM_WINDOW * LINK_CALLS;
/// Calls under way at once on a connection.
pub const LINK_CALLS: u32 = 256;

/// What is sent in a call: it may stream both ways.
pub type LinkBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// The calling end of a connection that was turned round; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reversed(http2::SendRequest<LinkBody>);

impl Reversed {
    /// Begins to call over `upgraded`. The future is the connection: it is to be polled, and ends with it.
    ///
    /// # Errors
    /// When the peer does not speak HTTP/2.
    pub async fn over(
        upgraded: Upgraded,
    ) -> Result<(Self, impl Future<Output = Result<(), hyper::Error>>), hyper::Error> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(LINK_PING)
            .keep_alive_timeout(LINK_PING)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(LINK_STREAM_WINDOW)
            .initial_connection_window_size(LINK_WINDOW)
            .handshake(upgraded)
            .await?;
        Ok((Self(sender), connection))
    }

    /// Makes one call whose answer must begin within `deadline`; its body may stream for as long as the peer lives.
    ///
    /// # Errors
    /// When the connection breaks, or there is no answer in time.
    ///
    /// # Cancel safety
    /// Dropping it drops the call; the request may have arrived.
    pub async fn call(&self, request: Request<LinkBody>, deadline: Duration) -> Result<Response<Incoming>, HttpError> {
        let mut sender = self.0.clone();
        let call = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        match tokio::time::timeout(deadline, call).await {
            Ok(answer) => answer.map_err(|error| HttpError::Broken(error.into())),
            Err(_) => Err(HttpError::TooLate(deadline)),
        }
    }
}

/// Opens a connection by this request, which asks for an upgrade; the caller serves HTTP/2 on it. Gives the answer's headers, too.
///
/// # Errors
/// When no connection is made in time, or the server does not agree.
pub async fn open(
    tls: Arc<rustls::ClientConfig>,
    request: Request<Empty<Bytes>>,
) -> Result<(HeaderMap, Upgraded), HttpError> {
    confine(request.uri())?;
    let https = HttpsConnectorBuilder::new().with_tls_config(Arc::unwrap_or_clone(tls));
    let https = https.https_only().enable_http1().wrap_connector(Confined::new());
    let pool = pool(https, Some((CALL_DEADLINE, SILENCE)));
    let deadline = CONNECT_TIMEOUT * 2;
    let upgrade = async {
        let mut answer = pool.request(request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(HttpError::Refused(answer.status()));
        }
        let headers = std::mem::take(answer.headers_mut());
        let upgraded = hyper::upgrade::on(answer).await.map_err(|error| HttpError::Broken(error.into()))?;
        Ok((headers, upgraded))
    };
    tokio::time::timeout(deadline, upgrade).await.unwrap_or(Err(HttpError::TooLate(deadline)))
}
