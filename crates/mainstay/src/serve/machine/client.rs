//! The ways from a node to its server: as itself, and for its sandboxes, which show tokens of their own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::uri::{Parts, PathAndQuery};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use mainstay_api::names::FENCE_HEADER;
use mainstay_api::node::{LINK_PROTOCOL, fence};
use mainstay_node::agent::relay;
use mainstay_runtime::client::{forwarder, remote_over};
use rustls::ClientConfig;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use super::identity::Identity;

/// How long an answer may be silent: a watch asks anew within 5 minutes, and says something each minute.
const IDLE: Duration = Duration::from_secs(330);

/// The clients of one node; cheap to clone.
#[derive(Clone)]
pub(super) struct Clients {
    url: Uri,
    /// TLS with the node's certificate.
    shown: Arc<ClientConfig>,
    /// TLS without any.
    plain: Arc<ClientConfig>,
    api: kube::Client,
}

impl Clients {
    /// Clients of the server at `url`, for this identity.
    ///
    /// # Errors
    /// When TLS cannot be configured.
    pub(super) fn new(url: &Uri, identity: &Identity) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let base = || -> anyhow::Result<_> {
            let builder =
                ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
            Ok(builder.with_root_certificates(identity.roots()?))
        };
        let (shown, plain) = (base()?.with_client_cert_resolver(identity.resolver()), base()?.with_no_client_auth());
        let api = remote_over(shown.clone(), &kube::Config::new(url.clone()), IDLE).context("make a client")?;
        Ok(Self { url: url.clone(), shown: Arc::new(shown), plain: Arc::new(plain), api })
    }

    /// The API, as the node.
    pub(super) const fn api(&self) -> &kube::Client {
        &self.api
    }

    /// TLS with the node's certificate.
    pub(super) fn shown(&self) -> Arc<ClientConfig> {
        self.shown.clone()
    }

    /// The API for requests out of sandboxes: without the node's certificate, so that each is what its token says.
    pub(super) fn relay(&self) -> relay::Api {
        let (url, service) = (self.url.clone(), forwarder::<relay::Body>((*self.plain).clone(), IDLE));
        let service = service
            .map_request(move |mut request: Request<relay::Body>| {
                if let Some(whole) = within(&url, request.uri()) {
                    *request.uri_mut() = whole;
                }
                request
            })
            .map_response(|response| response.map(|body| body.map_err(Into::into).boxed_unsync()))
            .map_err(|error| -> relay::BoxError { error.into() });
        BoxCloneSyncService::new(service)
    }

    /// What asks the server to turn the connection round.
    pub(super) fn link_request(&self, node: &str, term: u64) -> Request<Empty<Bytes>> {
        let path: Option<Uri> = format!("/api/v1/nodes/{node}/link").parse().ok();
        let uri = path.and_then(|path| within(&self.url, &path)).unwrap_or_else(|| self.url.clone());
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, http::HeaderValue::from_static(LINK_PROTOCOL));
        if let Ok(fence) = fence(node, term).parse() {
            headers.insert(FENCE_HEADER, fence);
        }
        request
    }
}

/// The URL of a path on the server.
fn within(server: &Uri, path: &Uri) -> Option<Uri> {
    let mut parts = Parts::default();
    (parts.scheme, parts.authority) = (server.scheme().cloned(), server.authority().cloned());
    parts.path_and_query = path.path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_on_the_server() {
        let server = "https://box:7443/".parse().unwrap();
        let whole = within(&server, &"/a/b?c=d".parse().unwrap()).unwrap();
        assert_eq!(whole.to_string(), "https://box:7443/a/b?c=d");
    }
}
