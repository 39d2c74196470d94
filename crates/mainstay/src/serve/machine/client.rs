//! The ways from a node to its servers: as itself, and for its sandboxes, which show tokens of their own.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use mainstay_api::names::{FENCE_HEADER, LINKED_HEADER};
use mainstay_api::node::{LINK_PROTOCOL, fence};
use mainstay_node::agent::relay;
use mainstay_runtime::client::forwarder;
use rustls::ClientConfig;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt as _};

use super::identity::Identity;
use super::servers::{Servers, within};

/// How long an answer may be silent: a watch asks anew within 5 minutes, and says something each minute.
const IDLE: Duration = Duration::from_secs(330);

type Pool<B> = BoxCloneSyncService<Request<B>, Response<Incoming>, BoxError>;

/// Connections by one configuration of TLS, to whichever server is asked.
struct Way<B> {
    servers: Servers,
    tls: ClientConfig,
    pool: ArcSwap<Pool<B>>,
}

impl<B> Way<B>
where
    B: hyper::body::Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    fn new(servers: Servers, tls: ClientConfig) -> Arc<Self> {
        let pool = ArcSwap::from_pointee(pool(&tls));
        Arc::new(Self { servers, tls, pool })
    }

    async fn ask(self: Arc<Self>, mut request: Request<B>) -> Result<Response<Incoming>, BoxError> {
        let attempt = self.servers.attempt();
        if let Some(whole) = within(attempt.url(), request.uri()) {
            *request.uri_mut() = whole;
        }
        let pool = Pool::clone(&self.pool.load());
        let answer = pool.oneshot(request).await;
        match &answer {
            Ok(answer) => attempt.answered(answer.status()),
            Err(_) => attempt.failed(),
        }
        answer
    }

    /// Makes connections anew from now on; those that are in use end when they are not.
    fn refresh(&self) {
        self.pool.store(Arc::new(pool(&self.tls)));
    }
}

fn pool<B>(tls: &ClientConfig) -> Pool<B>
where
    B: hyper::body::Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    BoxCloneSyncService::new(forwarder::<B>(tls.clone(), IDLE).map_err(BoxError::from))
}

/// The clients of one node; cheap to clone.
#[derive(Clone)]
pub(super) struct Clients {
    servers: Servers,
    /// TLS with the node's certificate.
    shown: Arc<ClientConfig>,
    own: Arc<Way<kube::client::Body>>,
    sandboxes: Arc<Way<relay::Body>>,
    api: kube::Client,
}

impl Clients {
    /// Clients of the servers, for this identity. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When TLS cannot be configured.
    pub(super) fn new(servers: &Servers, identity: &Identity) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let base = || -> anyhow::Result<_> {
            let builder =
                ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
            Ok(builder.dangerous().with_custom_certificate_verifier(identity.verifier()))
        };
        let (shown, plain) = (base()?.with_client_cert_resolver(identity.resolver()), base()?.with_no_client_auth());
        let (own, sandboxes) = (Way::new(servers.clone(), shown.clone()), Way::new(servers.clone(), plain));
        let way = Arc::clone(&own);
        let api = kube::Client::new(tower::service_fn(move |request| Arc::clone(&way).ask(request)), "default");
        Ok(Self { servers: servers.clone(), shown: Arc::new(shown), own, sandboxes, api })
    }

    /// The API, as the node.
    pub(super) const fn api(&self) -> &kube::Client {
        &self.api
    }

    /// TLS with the node's certificate.
    pub(super) fn shown(&self) -> Arc<ClientConfig> {
        self.shown.clone()
    }

    /// From now on connections show the certificate, and believe the authorities, that are there by now.
    pub(super) fn refresh(&self) {
        self.own.refresh();
        self.sandboxes.refresh();
    }

    /// The API for requests out of sandboxes: without the node's certificate, so that each is what its token says.
    pub(super) fn relay(&self) -> relay::Api {
        let way = Arc::clone(&self.sandboxes);
        let service = tower::service_fn(move |request| Arc::clone(&way).ask(request));
        let service = service.map_response(|response| response.map(|body| body.map_err(Into::into).boxed_unsync()));
        BoxCloneSyncService::new(service.map_err(|error| -> relay::BoxError { error }))
    }

    /// What asks the server whose turn it is to turn the connection round, unless it is one of those that have a link.
    pub(super) fn link_request(&self, turn: usize, node: &str, term: u64, linked: &[String]) -> Request<Empty<Bytes>> {
        let (server, path) = (self.servers.at(turn), format!("/api/v1/nodes/{node}/link").parse::<Uri>().ok());
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = path.and_then(|path| within(server, &path)).unwrap_or_else(|| server.clone());
        let headers = request.headers_mut();
        headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, http::HeaderValue::from_static(LINK_PROTOCOL));
        if let Ok(linked) = linked.join(",").parse() {
            headers.insert(LINKED_HEADER, linked);
        }
        if let Ok(fence) = fence(node, term).parse() {
            headers.insert(FENCE_HEADER, fence);
        }
        request
    }
}
