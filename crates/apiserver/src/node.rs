//! What concerns node agents alone: who they are, and what their rights cannot say.
//!
//! An agent on another machine shows a certificate of ours, which names its node and the uid of the Node that it was made
//! for: deleting the Node is what ends it. It names the number of the join, too: who joined before somebody else did under the
//! same name is refused ([`join`]). Of the agents of one node only the one with the newest term may write; the term
//! is in the node's lease, and what is written carries it (`Mainstay-Fence: nodes/NAME/TERM`).
//!
//! The term is compared when a request comes, so that one that is over is told at once; and a write holds only while the lease
//! is as it was then ([`standing`]), which the store looks at in the write's own transaction.

pub(crate) mod certificate;
mod join;
pub(crate) mod link;
mod register;

use std::borrow::Cow;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;
use mainstay_api::names::{FENCE_HEADER, JOIN, LOCAL_NODE, NODE_FENCE, NODE_LEASES};
use mainstay_api::node::{TOKEN_PREFIX, join_of, read_fence};
use mainstay_store::{Fence, Key, Requires, StoreError};
use serde_json::Value;

pub use link::Links;
pub use register::register;

use crate::auth::Identity;
use crate::catalog::Habit;
use crate::object;
use crate::request::Verb;
use crate::selector::FieldSelector;
use crate::server::{ApiServer, Call, Caller};
use crate::status::{About, ApiError, ApiResult};
use crate::tls::Peer;

const NODES: &str = "/nodes";
const LEASES: &str = "coordination.k8s.io/leases";

/// The caller of a request that came over a socket: by its token, or, without one, by its certificate.
///
/// # Errors
/// 401, or 503 when it could not be found out.
pub(crate) async fn authenticate(server: &ApiServer, parts: &Parts, peer: Option<&Arc<Peer>>) -> ApiResult<Identity> {
    match (parts.headers.get(AUTHORIZATION), peer) {
        (None, Some(peer)) => by_certificate(server, peer).await,
        (Some(header), _) => match header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")) {
            Some(token) if token.starts_with(TOKEN_PREFIX) => certificate::joiner(server, token).await,
            _ => server.access().authenticate(parts).await,
        },
        (None, None) => server.access().authenticate(parts).await,
    }
}

async fn by_certificate(server: &ApiServer, peer: &Peer) -> ApiResult<Identity> {
    if server.clock().now().as_second() >= peer.until {
        return Err(ApiError::unauthorized("the certificate of this node has expired"));
    }
    let node = find(server, &Key::new(NODES, "", peer.node.as_str())).await?;
    match node {
        Some(node) if object::text(&node, "uid") == peer.uid && !object::is_deleting(&node) => {
            let newest = join_of(&node);
            if peer.join < newest {
                return Err(ApiError::superseded(format!(
                    "this machine is not the node {:?} any more: another has joined under its name (join {newest}, this one's \
                     certificate is of join {}); a node under another name needs a data directory and a join token of its own",
                    peer.node, peer.join
                )));
            }
            Ok(Identity::node(&peer.node).with_uid(peer.uid.as_str()).with_extra(JOIN, peer.join.to_string()))
        }
        _ => Err(ApiError::unauthorized(format!("the node {:?} of this certificate is not there any more", peer.node))),
    }
}

/// The node to whose Pods a request of a node agent is confined; empty for none.
pub(crate) fn selected<'a>(call: &Call<'a>) -> Cow<'a, str> {
    if call.entry.habit != Habit::Pod || !call.identity.is_node() {
        return Cow::Borrowed("");
    }
    let text = call.query.get("fieldSelector").unwrap_or_default();
    let selector = FieldSelector::parse(text, &call.entry.kind).unwrap_or_default();
    Cow::Owned(selector.exact_value("spec.nodeName").unwrap_or_default().to_owned())
}

/// What the rights of a node agent do not say.
///
/// # Errors
/// 409 (Fenced) for the agent of an older term, 403.
pub(crate) async fn check(call: &Call<'_>, verb: Verb) -> ApiResult<()> {
    let node = call.identity.node_name().unwrap_or_default();
    let link = call.entry.habit == Habit::Node && call.path.subresource.as_deref() == Some("link");
    if link || !matches!(verb, Verb::Get | Verb::List | Verb::Watch) {
        check_fence(call, node).await?;
    }
    if call.entry.habit == Habit::Session {
        check_session(call, node).await?;
    }
    Ok(())
}

/// The lease itself is how a term begins: who takes it says none yet, and is judged by the version that it read.
async fn check_fence(call: &Call<'_>, node: &str) -> ApiResult<()> {
    standing(call).await.map(drop).map_err(|error| match error {
        StoreError::Deposed(Fence { term, .. }) => ApiError::fenced(format!(
            "another agent of node {node:?} has taken over: its term is {term}, and this one may write no more"
        )),
        error => ApiError::unavailable(format!("the lease of node {node:?} cannot be read: {error}")),
    })
}

/// What must stay true for a write of a node's agent: its lease, in which its term is the newest. Nothing for one that takes the
/// lease.
///
/// # Errors
/// [`StoreError::Deposed`], with the newest term, when another agent has taken over; what the store refuses.
pub(crate) async fn standing(call: &Call<'_>) -> Result<Option<Requires>, StoreError> {
    let node = call.identity.node_name().unwrap_or_default();
    let header = call.parts.headers.get(FENCE_HEADER);
    if header.is_none() && call.entry.kind.plural == "leases" {
        return Ok(None);
    }
    let lease = call.server.store().get(&Key::new(LEASES, NODE_LEASES, node)).await?;
    let body = lease.as_ref().and_then(|lease| object::parse(lease).ok()).unwrap_or_default();
    let current = body["spec"]["leaseTransitions"].as_u64().unwrap_or(0);
    let said = header.and_then(|header| read_fence(header.to_str().ok()?));
    match said {
        Some((name, term)) if name == node && term >= current => {}
        None if current == 0 && header.is_none() => {}
        _ => return Err(StoreError::Deposed(Fence { lease: format!("{NODE_FENCE}{node}").into(), term: current })),
    }
    Ok(lease.map(|lease| Requires { key: lease.key.clone(), revision: lease.revision }))
}

/// A node sees a session that ran on it last. What ran before sessions said where, ran in the server's own process.
async fn check_session(call: &Call<'_>, node: &str) -> ApiResult<()> {
    let Some(session) = find(call.server, &call.entry.key(call.namespace(), call.name())).await? else { return Ok(()) };
    match session["status"]["node"].as_str() {
        Some(ran) if ran == node => Ok(()),
        None if matches!(call.caller, Caller::Trusted(_)) || node == LOCAL_NODE => Ok(()),
        _ => Err(ApiError::forbidden(call.about(call.name()), "it did not run on this node")),
    }
}

async fn find(server: &ApiServer, key: &Key) -> ApiResult<Option<Value>> {
    let unread = |error| ApiError::unavailable(format!("{key} cannot be read: {error}"));
    let found = server.store().get(key).await.map_err(unread)?;
    found.map(|found| object::parse(&found)).transpose()
}

/// The kind of nodes, for messages.
fn about<'a>(server: &'a ApiServer, name: &'a str) -> ApiResult<About<'a>> {
    let entry = server.catalog().find("", "v1", "nodes").ok_or_else(ApiError::no_such_path)?;
    Ok(About { kind: &entry.kind, name })
}
