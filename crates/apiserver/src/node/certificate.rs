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
use mainstay_api::names::NODE_TOKEN;
use mainstay_api::node::{JoinToken, hex, name_fault};
use mainstay_runtime::Classify;
use mainstay_runtime::failure::{Class, Reason};
use mainstay_store::{Key, Object, StoreError, Write};
use serde_json::{Value, json};
use std::sync::Arc;

use super::{NODES, about, find, register};
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
struct Kept {
    stored: Arc<Object>,
    value: Value,
}

impl Kept {
    fn text(&self, field: &str) -> String {
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

fn refused() -> ApiError {
    // The same for each reason: who guesses learns nothing.
    ApiError::unauthorized("the join token is not known, was used, or is too old; make another: mainstay node token")
}

fn secrets(server: &ApiServer) -> ApiResult<&Arc<Entry>> {
    server.catalog().find("", "v1", "secrets").ok_or_else(ApiError::no_such_path)
}

async fn kept(server: &ApiServer, id: &str) -> ApiResult<Kept> {
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
    let (name, uid) = match (identity.node_name(), identity.joins_with()) {
        (Some(node), _) => (node.to_owned(), identity.uid().to_owned()),
        (None, Some(id)) => join(server, id, spec["nodeName"].as_str().unwrap_or_default(), request).await?,
        (None, None) => return Err(ApiError::new(403, "Forbidden", "only nodes, and who may join, get a certificate")),
    };
    let signed = keys.sign_node(request, &name, &uid, server.clock().now()).map_err(|error| {
        ApiError::bad_request(format!("spec.request: {}", mainstay_runtime::failure::chain_of(&error)))
    })?;
    tracing::info!(node = name, until = %signed.until, "a node got a certificate");
    status["certificate"] = signed.certificate.into();
    status["issuedTimestamp"] = server.clock().now().to_string().into();
    status["expirationTimestamp"] = signed.until.to_string().into();
    answer(&name, &status)
}

fn answer(node: &str, status: &Value) -> ApiResult<Response<Body>> {
    let answer = json!({
        "apiVersion": format!("{}/{}", PLACE.0, PLACE.1), "kind": "NodeCertificate", "metadata": {},
        "spec": { "nodeName": node }, "status": status,
    });
    Ok(respond::json(StatusCode::CREATED, object::to_bytes(&answer)?))
}

/// Uses the token up, and makes the node; its name and uid.
async fn join(server: &ApiServer, id: &str, asked: &str, request: &str) -> ApiResult<(String, String)> {
    let kept = kept(server, id).await?;
    let meant = kept.text("node");
    if let Some(fault) = name_fault(asked) {
        return Err(ApiError::bad_request(format!("spec.nodeName: {asked:?} {fault}")));
    }
    if !meant.is_empty() && meant != asked {
        return Err(ApiError::new(
            403,
            "Forbidden",
            format!("the join token is for the node {meant:?}, not {asked:?}"),
        ));
    }
    // What cannot be signed must not use the token up.
    server.access().authenticator.keys().check_request(request).map_err(|error| {
        ApiError::bad_request(format!("spec.request: {}", mainstay_runtime::failure::chain_of(&error)))
    })?;
    if meant.is_empty() && find(server, &Key::new(NODES, "", asked)).await?.is_some() {
        return Err(ApiError::new(
            409,
            "AlreadyExists",
            format!("there is a node {asked:?}; a token that names it lets it join anew: mainstay node token {asked}"),
        ));
    }
    use_up(server, &kept).await?;
    let uid = register(server, asked).await.map_err(|failure| match failure.class() {
        Class::Terminal(Reason::Invalid) => ApiError::bad_request(failure.chain()),
        _ => ApiError::unavailable(failure.chain()),
    })?;
    Ok((asked.to_owned(), uid))
}

async fn use_up(server: &ApiServer, kept: &Kept) -> ApiResult<()> {
    let draft = habits::sealed_draft(server, secrets(server)?, &kept.value)?;
    let write = Write::Delete { key: kept.stored.key.clone(), draft, expected: kept.stored.revision };
    match server.store().write(write).await {
        Ok(_) => Ok(()),
        Err(StoreError::Missing | StoreError::Conflict(_)) => Err(refused()),
        Err(error) => Err(ApiError::from_store(&error, about(server, "")?)),
    }
}
