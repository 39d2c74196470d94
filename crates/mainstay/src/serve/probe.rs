//! What answers probes where there is no API: of a node, of a standby, and of whoever still waits for its database.
//!
//! Over TLS by a certificate that it makes for itself at each start: nothing goes in the clear, and whoever probes cannot
//! verify it. Each connection carries one request, so that nobody stays with it who is to go on to the API.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, EXPECT, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mainstay_apiserver::keys::server_names;
use mainstay_apiserver::listener::read_off;
use mainstay_apiserver::status::ApiError;
use mainstay_runtime::Tasks;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections at once; more are closed.
const CONNECTIONS: usize = 256;
/// How long a handshake, or the head of a request, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a probe that is under way goes on when the process stops: it is how others see that it does.
const LAST: Duration = Duration::from_secs(1);
/// Between two tries to accept, where the system has refused one.
const PAUSE: Duration = Duration::from_millis(50);

/// What a probe is told.
pub(super) type Answer = Response<Full<Bytes>>;
/// Answers a method and a path; the last says whether they come from this machine.
pub(super) type Answers = Arc<dyn Fn(&Method, &str, bool) -> Answer + Send + Sync>;

/// An answer in words.
pub(super) fn text(status: StatusCode, text: &str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}

/// What is said of a process that lives and cannot serve yet, since this part of it waits.
pub(super) fn waiting(part: &str, why: &str) -> Answers {
    let ready = format!("[-]{part} failed: {why}\nreadyz check failed\n");
    let refusal = ApiError::unavailable(format!("the server cannot serve yet: {why}"));
    Arc::new(move |method, path, _| match (method, path) {
        (&Method::GET | &Method::HEAD, "/livez" | "/healthz") => text(StatusCode::OK, "ok"),
        (&Method::GET | &Method::HEAD, "/readyz") => text(StatusCode::SERVICE_UNAVAILABLE, &ready),
        _ => refused(&refusal),
    })
}

/// A `Status`, as whoever asks for objects expects it.
fn refused(error: &ApiError) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(error.to_json())));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_seconds() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// A socket, and what it takes to answer there.
pub(super) struct Probes {
    socket: TcpListener,
    tls: TlsAcceptor,
    slots: Arc<Semaphore>,
    tasks: Tasks,
}

impl Probes {
    /// Binds the address; each probe is to be one of these tasks.
    ///
    /// # Errors
    /// When the address is taken.
    pub(super) async fn bind(listen: SocketAddr, tasks: Tasks) -> anyhow::Result<Self> {
        let socket = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
        let made = rcgen::generate_simple_self_signed(server_names(listen, &[])).context("make a certificate")?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())?;
        let tls = TlsAcceptor::from(Arc::new(config));
        Ok(Self { socket, tls, slots: Arc::new(Semaphore::new(CONNECTIONS)), tasks })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say.
    pub(super) fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The socket, for somebody else to answer there. Probes that are under way are still answered.
    pub(super) fn into_socket(self) -> TcpListener {
        self.socket
    }

    /// Answers as it is said at that time, without end.
    ///
    /// # Cancel safety
    /// No connection is lost: it is accepted and has its task, or still waits in the socket.
    pub(super) async fn answer(&self, said: &ArcSwap<Answers>) -> Infallible {
        loop {
            let Ok((stream, peer)) = self.socket.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { continue };
            let (answers, tls, stop) = (Answers::clone(&said.load()), self.tls.clone(), self.tasks.stopping());
            drop(self.tasks.spawn("probe", async move {
                let _slot = slot;
                let late = async {
                    stop.cancelled().await;
                    tokio::time::sleep(LAST).await;
                };
                tokio::select! {
                    () = serve(stream, tls, answers, peer.ip().to_canonical().is_loopback()) => {}
                    () = late => {}
                }
            }));
        }
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, answers: Answers, here: bool) {
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(stream)).await else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let answer = answers(&parts.method, parts.uri.path(), here);
        async move {
            // Who asked first sends nothing.
            if !parts.headers.contains_key(EXPECT) {
                read_off(body).await;
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a probe's connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_lives_and_is_not_ready_and_sends_others_away_for_a_while() {
        let answers = waiting("store", "no answer");
        let of = |method: Method, path: &str| answers(&method, path, false);
        assert_eq!(of(Method::GET, "/livez").status(), 200);
        assert_eq!(of(Method::HEAD, "/healthz").status(), 200);
        assert_eq!(of(Method::GET, "/readyz").status(), 503);
        for (method, path) in
            [(Method::GET, "/api/v1/pods"), (Method::POST, "/livez"), (Method::GET, "/metrics"), (Method::GET, "/")]
        {
            let refused = of(method, path);
            assert_eq!((refused.status().as_u16(), &refused.headers()[RETRY_AFTER]), (503, &"1".parse().unwrap()));
        }
    }
}
