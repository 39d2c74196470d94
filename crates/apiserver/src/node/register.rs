//! Makes what an agent finds of its node: a Node, and a lease that nobody has taken yet.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use mainstay_api::names::{JOIN, NODE_LEASES, NODE_PODS_FINALIZER};
use mainstay_runtime::client::bounded;
use mainstay_runtime::{Class, Classify, Doing, Failure, Reason};
use serde_json::json;

use crate::auth::Identity;
use crate::inprocess;
use crate::server::ApiServer;

/// How often others may change the Node in between.
const TRIES: u32 = 16;

/// Makes the node's objects that are missing, and gives the uid of its Node. Idempotent.
///
/// # Errors
/// What the API refuses; a name that no node can have is [`Reason::Invalid`].
pub async fn register(server: &ApiServer, name: &str) -> Result<String, Failure> {
    let client = inprocess::client(server.clone(), Identity::controller("node-controller"), server.tasks().clone());
    let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Node"), "nodes");
    let nodes: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let mut node = DynamicObject::new(name, &kind);
    node.metadata.finalizers = Some(vec![NODE_PODS_FINALIZER.to_owned()]);
    let made = bounded(nodes.create(&PostParams::default(), &node)).await;
    let found = match made {
        Err(error) if error.class() == Class::Terminal(Reason::AlreadyExists) => bounded(nodes.get(name)).await,
        made => made,
    };
    let uid = found.doing(format!("make the Node {name}"))?.metadata.uid.unwrap_or_default();
    let leases: Api<Lease> = Api::namespaced(client, NODE_LEASES);
    let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": name, "uid": uid });
    let lease = serde_json::from_value(json!({
        "metadata": { "name": name, "ownerReferences": [owner] }, "spec": { "leaseTransitions": 0 },
    }));
    let lease: Lease =
        lease.map_err(|error| Failure::caused_by(Class::Terminal(Reason::Invalid), "make a lease", error))?;
    match bounded(leases.create(&PostParams::default(), &lease)).await {
        Err(error) if error.class() != Class::Terminal(Reason::AlreadyExists) => {
            Err(error).doing(format!("make the lease of node {name}"))
        }
        _ => Ok(uid),
    }
}

/// Counts one more join of the Node with this uid; its number. Certificates of those before are refused from then on.
pub(super) async fn count_join(server: &ApiServer, name: &str, uid: &str) -> Result<u64, Failure> {
    let doing = || format!("count the joins of node {name}");
    let client = inprocess::client(server.clone(), Identity::controller("node-controller"), server.tasks().clone());
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client);
    for _ in 0..TRIES {
        let meta = bounded(nodes.get(name)).await.doing(doing())?.metadata;
        let last = meta.annotations.iter().flatten().find(|(key, _)| *key == JOIN);
        let number = last.and_then(|(_, number)| number.parse::<u64>().ok()).unwrap_or(0) + 1;
        let change = json!({ "metadata": {
            "uid": uid, "resourceVersion": meta.resource_version, "annotations": { JOIN: number.to_string() },
        } });
        match bounded(nodes.patch(name, &PatchParams::default(), &Patch::Merge(change))).await {
            Err(error) if error.class() == Class::Conflict => {}
            done => return done.map(|_| number).doing(doing()),
        }
    }
    Err(Failure::new(Class::Conflict, doing()))
}
