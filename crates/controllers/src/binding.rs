//! Gives a node to a [`Pod`] that has none.
//!
//! The Pods of sessions have one from the start, if a node is ready then; this is for all others, and for those that came
//! while none was.
//!
//! Invariants:
//! - A Pod gets a node once, on the version that was read: nobody has begun anything of it before.
//! - A Pod that ends before it has a node is reported as never started, and held by no node.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use mainstay_api::names::{NODE_FINALIZER, STOP};
use mainstay_runtime::{Failure, Timestamp};
use serde_json::{Value, json};

use crate::driver::{Driver, Key};
use crate::objects::Objects;
use crate::placing::Placer;
use crate::reconcile::{Effect, FencingToken, Next, Plan, Reconciler};

/// How often a Pod for which no node is ready looks again.
const RETRY: Duration = Duration::from_secs(1);

/// The reconciler of Pods without a node.
#[derive(Debug)]
pub struct BindingReconciler {
    objects: Objects,
    placer: Placer,
}

/// One effect on a Pod without a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Give it to this node.
    Bind(String),
    /// Say that no node is ready, as of this time.
    Wait(Timestamp),
    /// Say that it was ended before it was started.
    End,
    /// No node holds it.
    Release,
}

/// A driver of Pods without a node, ready to start.
pub fn driver(client: Client) -> Driver<BindingReconciler> {
    let objects = Objects::new(client.clone());
    Driver::new(BindingReconciler { placer: Placer::new(objects.clone()), objects }, client)
}

fn has_node(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty())
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn is_to_end(pod: &Pod) -> bool {
    let ordered = pod.metadata.annotations.iter().flatten().any(|(key, value)| key == STOP && value == "true");
    ordered || pod.metadata.deletion_timestamp.is_some()
}

fn is_told(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
}

impl Reconciler for BindingReconciler {
    type Object = Pod;
    /// The node that it may be given to.
    type Observed = Option<String>;
    type Action = Action;
    const NAME: &'static str = "binding";
    const REPORTS: bool = false;

    async fn observe(&self, pod: &Pod) -> Result<Option<String>, Failure> {
        if has_node(pod) || is_to_end(pod) || phase(pod) != "Pending" { Ok(None) } else { self.placer.place().await }
    }

    fn plan(pod: &Pod, node: &Option<String>, now: Timestamp) -> Plan<Action> {
        if has_node(pod) {
            return Plan::settled(Next::AwaitChange);
        }
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let held = pod.metadata.finalizers.iter().flatten().any(|name| name == NODE_FINALIZER);
        if phase(pod) != "Pending" {
            let release = if deleting && held { vec![Action::Release] } else { Vec::new() };
            return Plan::act(release, Next::AwaitChange);
        }
        // Its own event brings it back, to be let go of on the version that was written.
        if is_to_end(pod) {
            return Plan::act([Action::End], Next::After(RETRY));
        }
        match node {
            Some(node) => Plan::act([Action::Bind(node.clone())], Next::AwaitChange),
            None if is_told(pod) => Plan::settled(Next::After(RETRY)),
            None => Plan::act([Action::Wait(now)], Next::After(RETRY)),
        }
    }

    async fn apply(&self, pod: &Pod, action: Action, _: FencingToken) -> Result<Effect, Failure> {
        let key = Key::of(&pod.metadata);
        let meta = json!({ "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version });
        let status = |status: Value| json!({ "metadata": meta, "status": status });
        match action {
            Action::Bind(node) => {
                tracing::info!(pod = %key, node, "a Pod is given to a node");
                let body = json!({ "metadata": meta, "spec": { "nodeName": node } });
                self.objects.merge::<Pod>(&key, &body).await
            }
            Action::Wait(now) => {
                let condition = json!({
                    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": "no node is ready to take it", "lastTransitionTime": now.to_string(),
                });
                self.objects.merge_status::<Pod>(&key, &status(json!({ "conditions": [condition] }))).await
            }
            Action::End => {
                let message = "it was ended before it had a node";
                let ended = json!({ "phase": "Failed", "reason": "Stopped", "message": message });
                self.objects.merge_status::<Pod>(&key, &status(ended)).await
            }
            Action::Release => self.objects.remove_finalizer(pod, NODE_FINALIZER).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_a_node_or_waits_or_ends() {
        let now = Timestamp::UNIX_EPOCH;
        let retry = Next::After(RETRY);
        let deleted = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["mainstay.dev/node"] });
        let told = json!({ "conditions": [{ "type": "PodScheduled", "status": "False" }] });
        for (name, meta, spec, status, node, expected) in [
            ("bound", json!({}), json!({ "nodeName": "a" }), json!({}), None, Plan::settled(Next::AwaitChange)),
            (
                "a node is ready",
                json!({}),
                json!({}),
                json!({}),
                Some("a"),
                Plan::act([Action::Bind("a".to_owned())], Next::AwaitChange),
            ),
            ("none is", json!({}), json!({ "nodeName": "" }), json!({}), None, Plan::act([Action::Wait(now)], retry)),
            ("none is, as was said", json!({}), json!({}), told, None, Plan::settled(retry)),
            ("deleted", deleted.clone(), json!({}), json!({}), None, Plan::act([Action::End], retry)),
            (
                "stopped",
                json!({ "annotations": { "mainstay.dev/stop": "true" } }),
                json!({}),
                json!({}),
                None,
                Plan::act([Action::End], retry),
            ),
            (
                "deleted, as was said",
                deleted.clone(),
                json!({}),
                json!({ "phase": "Failed" }),
                None,
                Plan::act([Action::Release], Next::AwaitChange),
            ),
            (
                "deleted, a node's",
                deleted,
                json!({ "nodeName": "a" }),
                json!({}),
                None,
                Plan::settled(Next::AwaitChange),
            ),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod = serde_json::from_value(json!({ "metadata": meta, "spec": spec, "status": status })).unwrap();
            assert_eq!(BindingReconciler::plan(&pod, &node.map(str::to_owned), now), expected, "{name}");
        }
    }
}
