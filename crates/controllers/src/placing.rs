//! Which node a Pod is given to: of those that are ready and take Pods, the one with the fewest.
//!
//! How many each has is counted at most once a second, and what was given since is added: many Pods that come at once are
//! spread. A Pod is given to a node once (the API holds that), so what is decided twice does no harm.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use mainstay_runtime::Failure;
use tokio::time::Instant;

use crate::objects::Objects;

/// How long a count is good for.
const FRESH: Duration = Duration::from_secs(1);
/// Selects Pods that have a node and have not ended.
const LIVE: &str = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!=";

/// Gives nodes to Pods.
#[derive(Debug)]
pub(crate) struct Placer {
    objects: Objects,
    census: Mutex<Option<Census>>,
}

/// Unfinished Pods by node, as of a moment.
#[derive(Debug)]
struct Census {
    taken: Instant,
    pods: HashMap<String, u64>,
}

impl Placer {
    pub(crate) const fn new(objects: Objects) -> Self {
        Self { objects, census: Mutex::new(None) }
    }

    /// A node for a new Pod; `None` while none is ready.
    pub(crate) async fn place(&self) -> Result<Option<String>, Failure> {
        let nodes = self.objects.list::<Node>(None, None).await?;
        let mut ready: Vec<String> = nodes.iter().filter(|node| takes(node)).filter_map(name_of).collect();
        if ready.len() < 2 {
            return Ok(ready.pop());
        }
        if !self.is_fresh() {
            let pods = self.objects.select::<Pod>(LIVE).await?;
            *self.census() = Some(Census { taken: Instant::now(), pods: count(&pods) });
        }
        let mut census = self.census();
        let Some(census) = census.as_mut() else { return Ok(ready.pop()) };
        ready.sort();
        let fewest = ready.into_iter().min_by_key(|node| census.pods.get(node).copied().unwrap_or(0));
        if let Some(node) = &fewest {
            *census.pods.entry(node.clone()).or_default() += 1;
        }
        Ok(fewest)
    }

    fn census(&self) -> MutexGuard<'_, Option<Census>> {
        self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self) -> bool {
        self.census().as_ref().is_some_and(|census| census.taken.elapsed() < FRESH)
    }
}

fn name_of(node: &Node) -> Option<String> {
    node.metadata.name.clone()
}

/// Whether a node is ready and takes Pods.
fn takes(node: &Node) -> bool {
    let closed = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    is_ready(node) && !closed && node.metadata.deletion_timestamp.is_none()
}

/// Whether a node's agent was heard of lately.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn count(pods: &[Pod]) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for node in pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()) {
        *counts.entry(node).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, ready: &str, closed: bool) -> Value {
        json!({ "metadata": { "name": name }, "spec": { "unschedulable": closed },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] } })
    }

    /// A placer over these nodes and these Pods of nodes.
    fn placer(nodes: &[Value], pods: &[&str]) -> Placer {
        let list = |items: Vec<Value>| json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items });
        let pod = |node: &&str| json!({ "metadata": {}, "spec": { "nodeName": node, "containers": [] } });
        let (nodes, pods) = (list(nodes.to_vec()), list(pods.iter().map(pod).collect()));
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let body = if request.uri().path().ends_with("/nodes") { nodes.to_string() } else { pods.to_string() };
            async move { Ok::<_, Infallible>(http::Response::new(kube::client::Body::from(body.into_bytes()))) }
        });
        Placer::new(Objects::new(kube::Client::new(service, "default")))
    }

    #[tokio::test(start_paused = true)]
    async fn the_fewest_pods_win_and_what_was_given_counts() {
        let nodes = [node("a", "True", false), node("b", "True", false), node("c", "True", false)];
        let placer = placer(&nodes, &["a", "a", "b", "gone"]);
        let mut given = Vec::new();
        for _ in 0..6 {
            given.push(placer.place().await.unwrap().unwrap());
        }
        assert_eq!(given, ["c", "b", "c", "a", "b", "c"]);
    }

    #[tokio::test]
    async fn only_ready_nodes_that_take_pods_get_any() {
        let dead = [node("a", "False", false), node("b", "Unknown", false), node("c", "True", true)];
        assert_eq!(placer(&dead, &[]).place().await.unwrap(), None);
        let mut one = dead.to_vec();
        one.push(node("d", "True", false));
        assert_eq!(placer(&one, &["d", "d"]).place().await.unwrap().as_deref(), Some("d"));
        assert_eq!(placer(&[], &[]).place().await.unwrap(), None);
    }
}
