//! `nodecertificates`: a node's certificate, for a join token once, and for the node itself when it is to be renewed.
//!
//! A node that sends no request is told which authorities there are, so that it learns of a new one while it runs.
//!
//! A join token is checked by a Secret of type `mainstay.dev/node-token` in `mainstay-system`, which holds the hash of its
//! secret. It is used up by removing that Secret at the revision that was read: of two who show it at the same moment one
//! is refused, whatever becomes of the other.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use jiff::Timestamp;
use mainstay_api::names::{JOIN, NODE_TOKEN};
use mainstay_api::node::{JoinToken, hex};
use mainstay_store::{Object, StoreError};
use serde_json::{Value, json};
use std::sync::Arc;

use super::join;
use crate::auth::Identity;
use crate::auth::identity::SYSTEM_NAMESPACE;
use crate::body::Body;
use crate::catalog::Entry;
use crate::content;
use crate::habits;
use crate::keys::{KeysError, sha256};
use crate::object;
use crate::respond;
use crate::server::ApiServer;
use crate::status::{ApiError, ApiResult};

/// Group, version and plural of what is posted.
pub(crate) const PLACE: (&str, &str, &str) = (mainstay_api::GROUP, mainstay_api::VERSION, "nodecertificates");

/// A join token as it is kept.
pub(super) struct Kept {
    pub(super) stored: Arc<Object>,
    pub(super) value: Value,
}

impl Kept {
    pub(super) fn text(&self, field: &str) -> String {
        let decoded = self.value["data"][field].as_str().and_then(|text| STANDARD.decode(text).ok());
        decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// Whether it is over at this time: it counts from its creation, by the server's clock.
    fn is_over(&self, now: Timestamp) -> bool {
        let made: Option<Timestamp> = object::text(&self.value, "creationTimestamp").parse().ok();
        let seconds: i64 = self.text("seconds").parse().unwrap_or(0);
        made.is_none_or(|made| now.as_second() >= made.as_second().saturating_add(seconds))
    }
}

pub(super) fn refused() -> ApiError {
    // The same for each reason: who guesses learns nothing.
    ApiError::unauthorized("the join token is not known, was used, or is too old; make another: mainstay node token")
}

pub(super) fn secrets(server: &ApiServer) -> ApiResult<&Arc<Entry>> {
    server.catalog().find("", "v1", "secrets").ok_or_else(ApiError::no_such_path)
}

pub(super) async fn kept(server: &ApiServer, id: &str) -> ApiResult<Kept> {
    let entry = secrets(server)?;
    let key = entry.key(SYSTEM_NAMESPACE, &JoinToken::secret_name(id));
    let unread = |error: StoreError| ApiError::unavailable(format!("the join token cannot be read: {error}"));
    let stored = server.store().get(&key).await.map_err(unread)?.ok_or_else(refused)?;
    let value = habits::opened(server, entry, object::parse(&stored)?)?;
    let kept = Kept { stored, value };
    let good = kept.value["type"] == NODE_TOKEN && !kept.is_over(server.clock().now());
    if good { Ok(kept) } else { Err(refused()) }
}

/// Who shows this join token.
///
/// # Errors
/// 401, or 503 when it could not be found out.
pub(crate) async fn joiner(server: &ApiServer, token: &str) -> ApiResult<Identity> {
    let (id, secret) = JoinToken::read_bearer(token).ok_or_else(refused)?;
    let kept = kept(server, id).await?;
    let shown = hex(&sha256(secret.as_bytes()));
    verify_slices_are_equal(shown.as_bytes(), kept.text("hash").as_bytes()).map_err(|_| refused())?;
    Ok(Identity::joiner(id))
}

/// Answers `POST`.
///
/// # Errors
/// 400, 401 for a token that was used meanwhile, 409 for the name of a node that is there, 422.
pub(crate) async fn create(
    server: &ApiServer,
    parts: &Parts,
    identity: &Identity,
    body: Bytes,
) -> ApiResult<Response<Body>> {
    let body = content::parse_fields(&parts.headers, &body, "a NodeCertificate")?;
    let spec = &body["spec"];
    let keys = server.access().authenticator.keys();
    let unknown = |error: KeysError| ApiError::unavailable(format!("the authority is not known: {error}"));
    let mut status = json!({ "authority": keys.authority_pem(), "issuer": keys.issuer().map_err(unknown)? });
    let Some(request) = spec["request"].as_str() else {
        let node = identity.node_name().ok_or_else(|| ApiError::bad_request("spec.request: is missing"))?;
        return answer(node, &status);
    };
    let (name, uid, join) = match (identity.node_name(), identity.joins_with()) {
        // Of the join that it was known by just now: there may be a later one by this moment.
        (Some(node), _) => (node.to_owned(), identity.uid().to_owned(), join_shown(identity)),
        (None, Some(id)) => join::join(server, id, spec).await?,
        (None, None) => return Err(ApiError::new(403, "Forbidden", "only nodes, and who may join, get a certificate")),
    };
    let signed = keys.sign_node(request, (&name, &uid, join), server.clock().now()).map_err(|error| {
        ApiError::bad_request(format!("spec.request: {}", mainstay_runtime::failure::chain_of(&error)))
    })?;
    tracing::info!(node = name, join, until = %signed.until, "a node got a certificate");
    status["join"] = join.into();
    status["certificate"] = signed.certificate.into();
    status["issuedTimestamp"] = server.clock().now().to_string().into();
    status["expirationTimestamp"] = signed.until.to_string().into();
    answer(&name, &status)
}

fn join_shown(identity: &Identity) -> u64 {
    let shown = identity.extra().get(JOIN).and_then(|all| all.first());
    shown.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn answer(node: &str, status: &Value) -> ApiResult<Response<Body>> {
    let answer = json!({
        "apiVersion": format!("{}/{}", PLACE.0, PLACE.1), "kind": "NodeCertificate", "metadata": {},
        "spec": { "nodeName": node }, "status": status,
    });
    Ok(respond::json(StatusCode::CREATED, object::to_bytes(&answer)?))
}
