//! Figures of nodes, read from the store when they are asked for: every server shows the same ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_api::names::{NODE_FINALIZER, NODE_LEASES, NODE_LOST};
use mainstay_runtime::Timestamp;
use mainstay_store::{ListQuery, Object, StoreError};
use serde_json::Value;

use super::Figure;
use crate::object;
use crate::server::ApiServer;

/// What is shown of one node.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    ready: bool,
    silent: Option<Duration>,
    held: u64,
}

/// The figures of all nodes.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn of_nodes(server: &ApiServer) -> Result<Vec<Figure>, StoreError> {
    let list = async |group: &str, plural: &str, namespace: Option<&str>| {
        let Some(entry) = server.catalog().find(group, "v1", plural) else { return Ok(Vec::new()) };
        let query = ListQuery { scope: entry.scope(namespace), limit: None, at: None, after: None };
        Ok::<_, StoreError>(server.store().list(query).await?.items)
    };
    let nodes = list("", "nodes", None).await?;
    let leases = list("coordination.k8s.io", "leases", Some(NODE_LEASES)).await?;
    let pods = if nodes.is_empty() { Vec::new() } else { list("", "pods", None).await? };
    Ok(figures(&shown(&nodes, &leases, &pods, server.clock().now())))
}

fn shown(
    nodes: &[Arc<Object>],
    leases: &[Arc<Object>],
    pods: &[Arc<Object>],
    now: Timestamp,
) -> BTreeMap<String, Shown> {
    let named = |object: &Value| object::text(object, "name").to_owned();
    let mut all = BTreeMap::<String, Shown>::new();
    for node in nodes.iter().filter_map(|node| object::parse(node).ok()) {
        let conditions = node["status"]["conditions"].as_array();
        let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        all.entry(named(&node)).or_default().ready = conditions.into_iter().flatten().any(is_ready);
    }
    for lease in leases.iter().filter_map(|lease| object::parse(lease).ok()) {
        let renewed = lease["spec"]["renewTime"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        if let (Some(node), Some(renewed)) = (all.get_mut(&named(&lease)), renewed) {
            let millis = now.as_millisecond().saturating_sub(renewed.as_millisecond());
            node.silent = Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
        }
    }
    // Few of them are: most need not be read.
    let may_be_lost = |pod: &&Arc<Object>| std::str::from_utf8(&pod.body).is_ok_and(|text| text.contains(NODE_LOST));
    for pod in pods.iter().filter(may_be_lost).filter_map(|pod| object::parse(pod).ok()) {
        let finalizers = pod["metadata"]["finalizers"].as_array();
        let is_held = finalizers.into_iter().flatten().any(|name| name == NODE_FINALIZER);
        let node = pod["spec"]["nodeName"].as_str().and_then(|name| all.get_mut(name));
        if let Some(node) = node.filter(|_| is_held && pod["status"]["reason"] == NODE_LOST) {
            node.held += 1;
        }
    }
    all
}

fn figures(nodes: &BTreeMap<String, Shown>) -> Vec<Figure> {
    let ready = nodes.iter().map(|(name, node)| (name.clone(), u64::from(node.ready)));
    let silent = nodes.iter().filter_map(|(name, node)| Some((name.clone(), node.silent?)));
    let held = nodes.iter().map(|(name, node)| (name.clone(), node.held));
    vec![
        Figure::by("node", "nodes_ready", "Whether a node's agent was heard of lately", false, ready),
        Figure::by(
            "node",
            "nodes_silent_seconds",
            "Since a node renewed its lease, by its clock and this server's",
            false,
            silent,
        ),
        Figure::by(
            "node",
            "nodes_held_pods",
            "Pods that were given up with a node, and may be running there",
            false,
            held,
        ),
    ]
}
