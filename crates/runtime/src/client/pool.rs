//! The one place where connections to other machines are made.
//!
//! Connecting (name, TCP and TLS together) is bounded by [`CONNECT_TIMEOUT`]. What is not TLS goes to this machine
//! only: whatever else leaves it carries secrets. Over HTTP/2, where a connection is shared by many calls, a peer that does
//! not answer a ping is left. Redirects are not followed, proxies not used, and nothing is repeated but what was not sent.

#![expect(clippy::disallowed_types, reason = "the one place that makes connections")]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http_body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Builder, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::{BoxError, Service};

/// How long a connection may take to be made. A machine that is there answers within a round trip; this leaves room for
/// SYNs that are lost twice (1 s, then 2 s) and a TLS handshake on a busy machine.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that nobody has used for so long is closed. Servers close theirs after 60 s and more; being first spares
/// a call that meets a closing connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Idle connections to one host that are kept.
const IDLE_CONNECTIONS: usize = 16;
/// Between pings on a connection, in use or not, and how long an answer to one may take (HTTP/2).
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Connections as all clients have them.
pub(super) type Https = HttpsConnector<Confined>;

/// Makes TCP connections; without TLS only within this machine.
#[derive(Debug, Clone)]
pub(super) struct Confined(HttpConnector);

/// A call that would have left this machine without TLS.
#[derive(Debug, thiserror::Error)]
#[error("{0} is on another machine, which is called over https only")]
pub struct Cleartext(Uri);

impl Confined {
    pub(super) fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self(tcp)
    }
}

/// Refuses what would leave this machine without TLS.
pub(super) fn confine(uri: &Uri) -> Result<(), Cleartext> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    if here || uri.scheme() == Some(&http::uri::Scheme::HTTPS) { Ok(()) } else { Err(Cleartext(uri.clone())) }
}

impl Service<Uri> for Confined {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if let Err(refused) = confine(&uri) {
            return Box::pin(async { Err(io::Error::new(io::ErrorKind::InvalidInput, refused).into()) });
        }
        let connecting = self.0.call(uri);
        Box::pin(async move { Ok(connecting.await?) })
    }
}

/// TLS as `tls` has it, and nothing else.
pub(super) fn over(tls: rustls::ClientConfig) -> Https {
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
    https.enable_all_versions().wrap_connector(Confined::new())
}

/// The client under every other. `silence`: the longest wait for a byte to be taken or to come, where that is bounded
/// here and not per call.
pub(super) fn pool<B>(https: Https, silence: Option<(Duration, Duration)>) -> Client<TimeoutConnector<Https>, B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut connector = TimeoutConnector::new(https);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    if let Some((write, read)) = silence {
        connector.set_write_timeout(Some(write));
        connector.set_read_timeout(Some(read));
    }
    #[expect(clippy::disallowed_methods, reason = "the one place that makes clients")]
    Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_INTERVAL)
        .http2_keep_alive_while_idle(true)
        .build(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_nothing_leaves_this_machine() {
        for here in ["http://127.0.0.1:1/", "http://127.9.9.9/", "http://[::1]:1/", "http://localhost:1/"] {
            assert!(confine(&here.parse().unwrap()).is_ok(), "{here}");
        }
        for away in ["http://10.0.0.1/", "http://127.0.0.1.example/", "http://[::2]/", "http://example.org/", "/path"] {
            assert!(confine(&away.parse().unwrap()).is_err(), "{away}");
        }
        assert!(confine(&"https://example.org/".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_document_shows_the_numbers_of_the_pool() {
        let shown = include_str!("../../../../docs/resilience.md");
        let (connect, idle) = (CONNECT_TIMEOUT.as_secs(), IDLE_TIMEOUT.as_secs());
        let (ping, call) = (PING_INTERVAL.as_secs(), crate::client::CALL_DEADLINE.as_secs());
        for row in [
            format!("| connecting, name, TCP and TLS together | {connect} s |"),
            format!("| idle connections | {IDLE_CONNECTIONS} to a host, {idle} s |"),
            format!("| HTTP/2 connection | ping each {ping} s, answered within {ping} s |"),
            format!("| Kubernetes API: single call | {call} s |"),
        ] {
            let count = shown.lines().filter(|line| line.starts_with(&row)).count();
            assert_eq!(count, 1, "docs/resilience.md has no line {row}");
        }
    }

    #[tokio::test]
    async fn the_connector_itself_refuses_too() {
        let refused = Confined::new().call("http://192.0.2.1:1/".parse().unwrap()).await.unwrap_err();
        assert_eq!(refused.downcast::<io::Error>().unwrap().kind(), io::ErrorKind::InvalidInput);
    }
}
