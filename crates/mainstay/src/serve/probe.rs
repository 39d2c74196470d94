//! What answers probes where there is no API: a node, and a standby.
//!
//! Over TLS by a certificate that it makes for itself at each start: nothing goes in the clear, and whoever probes cannot
//! verify it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mainstay_apiserver::keys::server_names;
use mainstay_runtime::Tasks;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at once; more are closed.
const CONNECTIONS: usize = 64;
/// How long a handshake, or the head of a request, may take, and how long a connection may be idle.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Listens, and gives what serves until told to stop; each probe is one of these tasks.
///
/// # Errors
/// When the address is taken.
pub(super) async fn bind(
    listen: SocketAddr,
    answers: Answers,
    tasks: Tasks,
    grace: Duration,
) -> anyhow::Result<(SocketAddr, impl FnOnce(CancellationToken) -> futures::future::BoxFuture<'static, ()>)> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let address = listener.local_addr()?;
    let made = rcgen::generate_simple_self_signed(server_names(listen, &[])).context("make a certificate")?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    let tls = TlsAcceptor::from(Arc::new(config));
    let serve = move |stop: CancellationToken| -> futures::future::BoxFuture<'static, ()> {
        Box::pin(accept(listener, (tls, answers, tasks), stop, grace))
    };
    Ok((address, serve))
}

async fn accept(
    listener: TcpListener,
    (tls, answers, tasks): (TlsAcceptor, Answers, Tasks),
    stop: CancellationToken,
    grace: Duration,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (serving, tls, stop) = (answers.clone(), tls.clone(), stop.clone());
        drop(tasks.spawn("probe", async move {
            let _slot = slot;
            let served = serve(stream, tls, serving, peer.ip().to_canonical().is_loopback());
            // A probe that is under way is answered: it is how others see that this is stopping.
            tokio::select! {
                () = served => {}
                () = async { stop.cancelled().await; tokio::time::sleep(grace.min(Duration::from_secs(1))).await } => {}
            }
        }));
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, answers: Answers, here: bool) {
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(stream)).await else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answers(request.method(), request.uri().path(), here);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a probe's connection");
    }
}
