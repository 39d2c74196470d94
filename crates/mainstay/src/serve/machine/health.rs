//! `/livez`, `/healthz`, `/readyz` and `/metrics` of a node, which has no API of its own.
//!
//! Over TLS by a certificate that it makes for itself at each start: nothing goes in the clear, and whoever probes cannot
//! verify it. `/metrics` is read on this machine only.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mainstay_apiserver::keys::server_names;
use mainstay_node::agent::Handle;
use mainstay_runtime::Tasks;
use mainstay_runtime::duty::{self, Duties};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at once; more are closed.
const CONNECTIONS: usize = 64;
/// How long a handshake, or the head of a request, may take, and how long a connection may be idle.
const PATIENCE: Duration = Duration::from_secs(10);
/// A node that could not renew its lease for so long is not ready.
const LEASE: Duration = Duration::from_secs(mainstay_api::node::LEASE_SECONDS as u64);

/// What is known of this node; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Facts>);

#[derive(Default)]
struct Facts {
    term: AtomicU64,
    linked: AtomicBool,
    agent: ArcSwapOption<Handle>,
}

impl Seen {
    /// It has this term.
    pub(super) fn begin(&self, term: u64) {
        self.0.term.store(term, Ordering::Relaxed);
    }

    /// Its agent runs.
    pub(super) fn runs(&self, agent: Handle) {
        self.0.agent.store(Some(Arc::new(agent)));
    }

    /// Whether the server can ask it.
    pub(super) fn linked(&self, linked: bool) {
        self.0.linked.store(linked, Ordering::Relaxed);
    }
}

/// Answers questions about health.
#[derive(Clone)]
pub(super) struct Answers {
    seen: Seen,
    duties: Duties,
    tasks: Tasks,
}

impl Answers {
    pub(super) const fn new(seen: Seen, duties: Duties, tasks: Tasks) -> Self {
        Self { seen, duties, tasks }
    }

    /// Each dependency of its own, and what is wrong with it.
    fn readiness(&self) -> Vec<(&'static str, Result<(), String>)> {
        let agent = self.seen.0.agent.load();
        let lease = match agent.as_deref() {
            None => Err("it has not started".to_owned()),
            Some(agent) => match agent.renewed() {
                Some(ago) if ago < LEASE => Ok(()),
                Some(ago) => Err(format!("it was not renewed for {} s", ago.as_secs())),
                None => Err("it was not renewed yet".to_owned()),
            },
        };
        let stopping = self.tasks.stopping().is_cancelled();
        let started = if agent.is_some() { Ok(()) } else { Err("it has not started".to_owned()) };
        let shutdown = if stopping { Err("the node is stopping".to_owned()) } else { Ok(()) };
        vec![("node-agent", started), ("lease", lease), ("shutdown", shutdown)]
    }

    fn metrics(&self) -> String {
        let facts = &self.seen.0;
        let agent = facts.agent.load();
        let silent = agent.as_deref().and_then(Handle::renewed).map_or(0, |ago| ago.as_secs());
        let pods = agent.as_deref().map_or(0, |agent| agent.pods() as u64);
        let gauges = [
            ("node_term", "The term of this node's agent", facts.term.load(Ordering::Relaxed)),
            ("node_linked", "1 while the server can reach this node", facts.linked.load(Ordering::Relaxed).into()),
            ("node_pods", "Pods that this node looks after", pods),
            ("node_lease_age_seconds", "Since the node's lease was renewed", silent),
        ];
        let gauges = gauges.map(|(name, help, value)| {
            format!("# HELP mainstay_{name} {help}.\n# TYPE mainstay_{name} gauge\nmainstay_{name} {value}\n")
        });
        let seen = self.duties.seen();
        let counter = |name: &str, help: &str, count: fn(&duty::Seen) -> u64| {
            let head = format!("# HELP mainstay_{name} {help}.\n# TYPE mainstay_{name} counter\n");
            let rows = seen
                .iter()
                .map(|(duty, seen)| format!("mainstay_{name}_total{{duty=\"{}\"}} {}\n", duty.name, count(seen)));
            std::iter::once(head).chain(rows).collect::<String>()
        };
        let passes = counter("duty_passes", "Passes of periodic duties that ended", |seen| seen.passes);
        let failures = counter("duty_failures", "Failures of periodic duties", |seen| seen.failures.values().sum());
        [gauges.concat(), passes, failures, "# EOF\n".to_owned()].concat()
    }

    fn answer(&self, method: &Method, path: &str, here: bool) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
        }
        match path {
            "/livez" | "/healthz" => text(StatusCode::OK, "ok"),
            "/readyz" => {
                let failed: Vec<String> = self
                    .readiness()
                    .into_iter()
                    .filter_map(|(name, found)| Some(format!("[-]{name} failed: {}\n", found.err()?)))
                    .collect();
                if failed.is_empty() {
                    text(StatusCode::OK, "ok")
                } else {
                    text(StatusCode::SERVICE_UNAVAILABLE, &format!("{}readyz check failed\n", failed.concat()))
                }
            }
            "/metrics" if here => text(StatusCode::OK, &self.metrics()),
            "/metrics" => text(StatusCode::FORBIDDEN, "metrics of a node are read on its machine\n"),
            _ => text(StatusCode::NOT_FOUND, "a node answers /livez, /readyz, /healthz and /metrics\n"),
        }
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}

/// Listens, and gives what serves until told to stop.
///
/// # Errors
/// When the address is taken.
pub(super) async fn bind(
    listen: SocketAddr,
    answers: Answers,
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
        Box::pin(accept(listener, tls, answers, stop, grace))
    };
    Ok((address, serve))
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, answers: Answers, stop: CancellationToken, grace: Duration) {
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
        drop(answers.tasks.spawn("probe", async move {
            let _slot = slot;
            let served = serve(stream, tls, serving, peer.ip().to_canonical().is_loopback());
            // A probe that is under way is answered: it is how others see that the node is stopping.
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
        let answer = answers.answer(request.method(), request.uri().path(), here);
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
