//! The server: one request in, one response out.
//!
//! Life of a request: the path is parsed, the caller is found out, the right is checked, the verb does its work under
//! a deadline. Every failure on the way is an [`ApiError`], and becomes a `Status` in one place.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::request::Parts;
use http::{Request, Response};
use mainstay_api::Registry;
use mainstay_runtime::duty::Duties;
use mainstay_runtime::resilience::gates::Gates;
use mainstay_runtime::{Clock, Tasks, trace};
use mainstay_store::{Fence, Store};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, trace_span};

use crate::access::Access;
use crate::activity::Activity;
use crate::auth::Identity;
use crate::body::{Body, BodyError};
use crate::catalog::{Catalog, CatalogError, Entry};
use crate::config::Limits;
use crate::crypt::Sealer;
use crate::documents::Documents;
use crate::gate::Gate;
use crate::health::{Expected, Part};
use crate::metrics::{self, Figures, Metrics};
use crate::node::Links;
use crate::nodelink::NodeLink;
use crate::request::{Query, ResourcePath};
use crate::respond;
use crate::route;
use crate::status::{About, ApiError};
use crate::sub::flow::Flow;
use crate::sub::heartbeat::Turns;
use crate::tls::Peer;

/// What a server is made of.
pub struct Config {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// The kinds that are served.
    pub registry: Arc<Registry>,
    /// Who may do what.
    pub access: Access,
    /// Seals what is secret.
    pub sealer: Arc<Sealer>,
    /// The time.
    pub clock: Clock,
    /// The owner of the server's tasks.
    pub tasks: Tasks,
    /// What the process does periodically; the server adds its own.
    pub duties: Duties,
    /// Its limits.
    pub limits: Limits,
    /// The version of the program.
    pub version: &'static str,
    /// What `/metrics` shows; the server adds its own.
    pub metrics: metrics::Registry,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("limits", &self.limits).field("version", &self.version).finish_non_exhaustive()
    }
}

/// The API server; cheap to clone.
#[derive(Clone)]
pub struct ApiServer(Arc<Shared>);

struct Shared {
    config: Config,
    catalog: Catalog,
    activity: Activity,
    metrics: Metrics,
    documents: Documents,
    gate: Gate,
    turns: Turns,
    expected: Expected,
    flow: Flow,
    links: Links,
    began: Instant,
}

/// How a request came in.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Over a socket: it has to show who it is.
    Unknown,
    /// Over a socket, with a certificate of ours: that of a node. It may show something else.
    Certified(Arc<Peer>),
    /// From inside this process.
    Trusted(Identity),
}

impl Caller {
    /// The certificate that was shown.
    pub(crate) const fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::Certified(peer) => Some(peer),
            Self::Unknown | Self::Trusted(_) => None,
        }
    }
}

/// A request for a resource that has passed authentication and authorisation.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The server.
    pub(crate) server: &'a ApiServer,
    /// Method, URL and headers.
    pub(crate) parts: &'a Parts,
    /// Who is calling.
    pub(crate) identity: &'a Identity,
    /// Where to.
    pub(crate) path: &'a ResourcePath<'a>,
    /// The kind.
    pub(crate) entry: &'a Arc<Entry>,
    /// The parameters.
    pub(crate) query: &'a Query<'a>,
    /// How it came in: who came over a socket is checked again while a stream lives.
    pub(crate) caller: &'a Caller,
    /// Under which lease it writes, when it says so.
    pub(crate) fence: Option<Fence>,
}

impl Call<'_> {
    /// The namespace, empty for cluster-scoped objects.
    pub(crate) fn namespace(&self) -> &str {
        self.path.namespace.as_deref().unwrap_or("")
    }

    /// The object's name, empty for a collection.
    pub(crate) fn name(&self) -> &str {
        self.path.name.as_deref().unwrap_or("")
    }

    /// What messages are about.
    pub(crate) fn about<'b>(&'b self, name: &'b str) -> About<'b> {
        About { kind: &self.entry.kind, name }
    }
}

impl ApiServer {
    /// A server of these parts.
    ///
    /// # Errors
    /// When a kind's schema cannot be compiled.
    pub fn new(mut config: Config) -> Result<Self, CatalogError> {
        let catalog = Catalog::new(&config.registry)?;
        let registry = std::mem::take(&mut config.metrics);
        let (gate, flow) = (Gate::new(&config.limits), Flow::new(&config.limits));
        let server = Self(Arc::new(Shared {
            catalog,
            activity: Activity::default(),
            metrics: Metrics::new(registry, config.store.clone(), config.duties.clone(), config.version),
            documents: Documents::new(&config.registry),
            gate,
            turns: Turns::default(),
            expected: Expected::default(),
            flow,
            links: Links::default(),
            began: Instant::now(),
            config,
        }));
        crate::activity::keep_written(&server);
        crate::quota::status::keep_written(&server);
        crate::leftovers::keep_away(&server);
        crate::keyring::follow(&server);
        crate::reseal::keep_up(&server);
        crate::operation::sweep::keep_away(&server);
        Ok(server)
    }

    /// Connects the agent of a node that runs in this process; it is a client of this server and can only exist after it.
    pub fn set_node_link(&self, node: &str, link: Arc<dyn NodeLink>) {
        self.0.links.put(node, link);
    }

    /// From now on the server is not ready before this part of the process is.
    pub fn expect(&self, part: &'static str) -> Part {
        self.0.expected.expect(part)
    }

    /// Adds what another part of the process counts to `/metrics`. The first one stays.
    pub fn set_figures(&self, figures: Arc<dyn Figures>) {
        if !self.0.metrics.add(figures) {
            tracing::warn!("figures were added already");
        }
    }

    /// What stands in front of the backends that this process calls, for `/metrics` and `/status`. The first stays.
    pub fn set_gates(&self, gates: Arc<Gates>) {
        if !self.0.metrics.set_gates(gates) {
            tracing::warn!("gates were told of already");
        }
    }

    /// Answers one request; a panic is its own 500, and nobody else's.
    pub async fn handle<B>(&self, request: Request<B>, caller: Caller) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send,
        B::Error: Into<BodyError>,
    {
        let (parts, body) = request.into_parts();
        let mut observation = self.0.metrics.begin();
        let span = trace_span!(
            "request",
            otel.kind = "server",
            http.request.method = parts.method.as_str(),
            mainstay.request = Empty,
            http.response.status_code = Empty,
        );
        trace::adopt(&span, || trace::of_headers(&parts.headers));
        let answer = {
            // Pinned here: handing the future to the timeout by value would move it.
            let work = route::route(self, &parts, body, caller, &mut observation).instrument(span.clone());
            let work = std::pin::pin!(work);
            let work = AssertUnwindSafe(tokio::time::timeout(self.0.config.limits.request, work));
            match work.catch_unwind().await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(ApiError::timeout("the request took longer than the server allows")),
                Err(_) => {
                    tracing::error!(method = %parts.method, path = parts.uri.path(), "a request panicked");
                    self.0.metrics.panicked();
                    Err(ApiError::internal("the request panicked; the server goes on"))
                }
            }
        };
        let response = answer.unwrap_or_else(|error| respond::failure(&error));
        self.0.metrics.end(&observation, response.status());
        if !span.is_disabled() {
            span.record("mainstay.request", observation.name());
            span.record("http.response.status_code", response.status().as_u16());
        }
        response
    }

    /// Where everything is kept.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.0.config.store
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    pub(crate) fn documents(&self) -> &Documents {
        &self.0.documents
    }

    pub(crate) fn access(&self) -> &Access {
        &self.0.config.access
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.0.config.sealer
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.config.clock
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.0.config.tasks
    }

    pub(crate) fn duties(&self) -> &Duties {
        &self.0.config.duties
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.config.limits
    }

    pub(crate) fn version(&self) -> &'static str {
        self.0.config.version
    }

    pub(crate) fn activity(&self) -> &Activity {
        &self.0.activity
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn gates(&self) -> Option<&Arc<Gates>> {
        self.0.metrics.gates()
    }

    /// For how long it has been there.
    pub(crate) fn uptime(&self) -> Duration {
        self.0.began.elapsed()
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.0.turns
    }

    pub(crate) fn flow(&self) -> &Flow {
        &self.0.flow
    }

    pub(crate) fn expected(&self) -> &Expected {
        &self.0.expected
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    pub(crate) fn links(&self) -> &Links {
        &self.0.links
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("limits", &self.0.config.limits).finish_non_exhaustive()
    }
}
