//! Under which names a machine may join, and what becomes of the machine that had the name before.
//!
//! Joins of a name are counted, in an annotation of its Node that only grows; a certificate is of one join, and good until the
//! next. So of two machines under one name the later is the node, and the earlier is told so at its next request.
//!
//! Nothing may run beside itself: another machine gets a name only while none of its Pods can be running where it was. Which
//! machine it is, the agent says by an id that is kept in its directory, and where that is; the node's Lease has those of its
//! holder.

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use mainstay_api::names::{MACHINE, NODE_FINALIZER, NODE_LEASES, NODE_LOST, PLACE};
use mainstay_api::node::{join_of, name_fault};
use mainstay_runtime::client::bounded;
use mainstay_runtime::failure::{Class, Reason, chain_of};
use mainstay_runtime::{Classify, Failure};
use mainstay_store::{Key, StoreError, Write};
use serde_json::Value;

use super::certificate::{Kept, kept, refused, secrets};
use super::{LEASES, NODES, about, find, register};
use crate::auth::Identity;
use crate::habits;
use crate::inprocess;
use crate::server::ApiServer;
use crate::status::{ApiError, ApiResult};

/// How many Pods a refusal names.
const NAMED: usize = 5;
/// Pods of one page.
const PAGE: u32 = 500;

/// Uses the token up, and makes the node, by the `spec` of the request: its name and uid, and the number of this join.
///
/// # Errors
/// 400, 401, 403; 409 for a name that this machine may not have.
pub(super) async fn join(server: &ApiServer, id: &str, spec: &Value) -> ApiResult<(String, String, u64)> {
    let kept = kept(server, id).await?;
    let (meant, asked) = (kept.text("node"), spec["nodeName"].as_str().unwrap_or_default());
    if let Some(fault) = name_fault(asked) {
        return Err(ApiError::bad_request(format!("spec.nodeName: {asked:?} {fault}")));
    }
    if !meant.is_empty() && meant != asked {
        let why = format!("the join token is for the node {meant:?}, not {asked:?}");
        return Err(ApiError::new(403, "Forbidden", why));
    }
    // What cannot be signed must not use the token up.
    let request = spec["request"].as_str().unwrap_or_default();
    server
        .access()
        .authenticator
        .keys()
        .check_request(request)
        .map_err(|error| ApiError::bad_request(format!("spec.request: {}", chain_of(&error))))?;
    let node = find(server, &Key::new(NODES, "", asked)).await?;
    if meant.is_empty() && node.is_some() {
        return Err(ApiError::new(
            409,
            "AlreadyExists",
            format!("there is a node {asked:?}; a token that names it lets it join anew: mainstay node token {asked}"),
        ));
    }
    let is_another = match &node {
        Some(node) => is_another(server, asked, node, spec).await?,
        None => false,
    };
    if is_another {
        holds_nothing(server, asked).await?;
    }
    use_up(server, &kept).await?;
    let failed = |failure: Failure| match failure.class() {
        Class::Terminal(Reason::Invalid) => ApiError::bad_request(failure.chain()),
        _ => ApiError::unavailable(failure.chain()),
    };
    let uid = register(server, asked).await.map_err(failed)?;
    let number = register::count_join(server, asked, &uid).await.map_err(failed)?;
    if is_another {
        // Now the machine before is refused, so this stays so.
        holds_nothing(server, asked).await?;
    }
    Ok((asked.to_owned(), uid, number))
}

/// Whether this may be another machine than the one that was the node until now.
///
/// # Errors
/// 409 for the name of a server's own node.
async fn is_another(server: &ApiServer, name: &str, node: &Value, spec: &Value) -> ApiResult<bool> {
    let Some(lease) = find(server, &Key::new(LEASES, NODE_LEASES, name)).await? else { return Ok(true) };
    if lease["spec"]["holderIdentity"].as_str().unwrap_or_default().is_empty() {
        // Nobody has ever been this node.
        return Ok(false);
    }
    let of_holder = |annotation: &str| lease["metadata"]["annotations"][annotation].as_str().unwrap_or_default();
    let (machine, place) = (of_holder(MACHINE), of_holder(PLACE));
    let is_it = |said: &str, known: &str| !known.is_empty() && spec[said].as_str() == Some(known);
    if is_it("machine", machine) {
        // Elsewhere than it was: it was started anew, or it is a copy, while that which it is a copy of goes on.
        return Ok(!is_it("place", place) && is_ready(node));
    }
    if !machine.is_empty() && join_of(&lease) == 0 {
        return Err(ApiError::new(
            409,
            "Conflict",
            format!(
                "the node {name:?} is the own node of a server: take another name for this machine, or, when that server is \
                 gone for good, delete the Node first: mainstay delete node {name}"
            ),
        ));
    }
    Ok(true)
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Whether the machine that was the node until now may be running none of its Pods.
///
/// # Errors
/// 409, naming them and what to do.
async fn holds_nothing(server: &ApiServer, name: &str) -> ApiResult<()> {
    let client = inprocess::client(server.clone(), Identity::controller("node-controller"), server.tasks().clone());
    let held = held(client, name).await.map_err(|error| {
        ApiError::unavailable(format!("the Pods of node {name:?} cannot be read: {}", chain_of(&error)))
    })?;
    if held.is_empty() {
        return Ok(());
    }
    let more = held.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = held[..held.len().min(NAMED)].join(", ");
    Err(ApiError::new(
        409,
        "Conflict",
        format!(
            "the machine that is the node {name:?} until now may be running {named}{more}, so another may not take its place: \
             wait until they have ended and are not held any more; or take another name; or, once that machine is stopped, say \
             that it is gone for good: mainstay delete node {name}"
        ),
    ))
}

/// The Pods of a node that may be running there: unfinished, or given up and not let go of.
async fn held(client: Client, node: &str) -> Result<Vec<String>, mainstay_runtime::client::CallError> {
    let (pods, mut held): (Api<Pod>, _) = (Api::all(client), Vec::new());
    let mut params = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(PAGE);
    loop {
        let page = bounded(pods.list(&params)).await?;
        for pod in page.items {
            let status = pod.status.as_ref();
            let is_finished = matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
            let was_given_up = status.and_then(|status| status.reason.as_deref()) == Some(NODE_LOST);
            let is_held = pod.metadata.finalizers.iter().flatten().any(|name| name == NODE_FINALIZER);
            if !is_finished || (was_given_up && is_held) {
                let name = |part: Option<String>| part.unwrap_or_default();
                held.push(format!("{}/{}", name(pod.metadata.namespace), name(pod.metadata.name)));
            }
        }
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(held);
        }
    }
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
