//! Says of each [`Node`] whether its agent is there, and gives up the Pods of one that is not.
//!
//! An agent renews its lease. It is judged by how long *we* have seen the lease unchanged, not by anybody's wall clock.
//! First the Node is said to be not ready; its Pods are lost only when the lease is over, and some time after that write
//! went through: while nothing can be written (a full disk, say) no agent could renew, and none is given up for it. Silence
//! counts only while the API is served ([`serving`]): once it is served again, agents get all that time anew to come back.
//!
//! Invariants:
//! - A lost Pod is reported, and never started anywhere again: its node may still run it. It stays held by the node's
//!   finalizer until the node comes back and has ended it, or somebody deletes the Node, which says that it is gone for good.
//! - A Node that is deleted goes only when none of its Pods is held by it any more.

mod serving;
mod watchful;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use mainstay_api::names::{NODE_FINALIZER, NODE_LEASES, NODE_LOST, NODE_PODS_FINALIZER};
use mainstay_api::node::LEASE_SECONDS;
use mainstay_runtime::{Failure, Timestamp};
use serde_json::json;

use crate::driver::{Driver, Key, Surroundings, Targets};
use crate::objects::Objects;
use crate::placing::is_ready;
use crate::reconcile::{Effect, FencingToken, Next, Plan, Reconciler};
use serving::Serving;
pub use watchful::Silence;
use watchful::Watchful;

/// A node of which nothing is heard for so long is not ready: two renewals have not come.
const NOT_READY: Duration = Duration::from_secs(8);
/// And for so long, lost with its Pods.
const LOST: Duration = Duration::from_secs(LEASE_SECONDS as u64);
/// So long after it was said to be not ready, at the earliest: an agent that could not write either has renewed by then.
const RECONSIDERED: Duration = Duration::from_secs(4);

/// The reconciler of nodes.
#[derive(Debug)]
pub struct NodeReconciler {
    objects: Objects,
    watchful: Watchful,
    serving: Serving,
}

/// What was read of a node.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// How long nothing was heard of it.
    pub silence: Silence,
    /// Its Pods, where they matter: of a node that is lost or is being deleted.
    pub pods: Vec<Pod>,
}

/// One effect on a node or its Pods.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Say whether it is ready, as of this time.
    Say(bool, Timestamp),
    /// Its result is lost: report that, as of this time.
    Lose(Box<Pod>, Timestamp),
    /// The node does not hold this Pod any more.
    Release(Box<Pod>),
    /// Let the Node go.
    Forget,
}

/// A driver of nodes for one term, ready to start. Where its process does not serve the API itself (`serves`), it watches
/// those that do from now on.
pub fn driver(client: Client, around: &Surroundings, serves: bool) -> Driver<NodeReconciler> {
    let clock = around.clock.clone();
    let serving = if serves { Serving::Here } else { Serving::elsewhere(client.clone(), clock.clone(), &around.tasks) };
    let reconciler = NodeReconciler { objects: Objects::new(client.clone()), watchful: Watchful::new(clock), serving };
    Driver::new(reconciler, client).related::<Lease>(node_of)
}

/// The node of a lease.
fn node_of(lease: &ObjectMeta) -> Targets {
    match &lease.name {
        Some(name) if lease.namespace.as_deref() == Some(NODE_LEASES) => {
            Targets::Key(Key { namespace: None, name: name.clone() })
        }
        _ => Targets::None,
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_lost(silence: Silence) -> bool {
    silence.counted >= LOST && silence.known >= RECONSIDERED
}

impl Reconciler for NodeReconciler {
    type Object = Node;
    type Observed = Observed;
    type Action = Action;
    const NAME: &'static str = "node";
    const REPORTS: bool = false;

    async fn observe(&self, node: &Node) -> Result<Observed, Failure> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let key = Key { namespace: Some(NODE_LEASES.to_owned()), name: name.clone() };
        let lease = self.objects.get::<Lease>(&key).await?;
        let silence = self.watchful.look(&name, lease.as_ref(), is_ready(node), self.serving.span());
        let mut observed = Observed { silence, pods: Vec::new() };
        if node.metadata.deletion_timestamp.is_some() || is_lost(silence) {
            observed.pods = self.objects.select::<Pod>(&format!("spec.nodeName={name}")).await?;
        }
        Ok(observed)
    }

    fn plan(node: &Node, observed: &Observed, now: Timestamp) -> Plan<Action> {
        let lost = observed.pods.iter().filter(|pod| !is_finished(pod));
        let mut actions: Vec<Action> = lost.map(|pod| Action::Lose(Box::new(pod.clone()), now)).collect();
        if node.metadata.deletion_timestamp.is_some() {
            return deleting(node, observed, actions);
        }
        let silence = observed.silence;
        let said = node.status.iter().flat_map(|status| status.conditions.iter().flatten()).next().is_some();
        // While its silence says nothing, it is what it was.
        let uncertain = silence.of_agent >= NOT_READY && silence.counted < NOT_READY;
        let ready = if uncertain { said && is_ready(node) } else { silence.of_agent < NOT_READY };
        if ready != is_ready(node) || !said {
            actions.insert(0, Action::Say(ready, now));
        }
        let next = match (ready, is_lost(silence)) {
            (true, _) => Next::After(NOT_READY.saturating_sub(silence.counted)),
            (false, false) => {
                let left = LOST.saturating_sub(silence.counted).max(RECONSIDERED.saturating_sub(silence.known));
                Next::After(left.max(Duration::from_millis(100)))
            }
            // What is given to it by name meanwhile is lost as well.
            (false, true) => Next::After(LOST),
        };
        Plan::act(actions, next)
    }

    async fn apply(&self, node: &Node, action: Action, _: FencingToken) -> Result<Effect, Failure> {
        match action {
            Action::Say(ready, now) => self.say(node, ready, now).await,
            Action::Lose(pod, now) => self.lose(node, &pod, now).await,
            Action::Release(pod) => self.objects.remove_finalizer(&*pod, NODE_FINALIZER).await,
            Action::Forget => self.objects.remove_finalizer(node, NODE_PODS_FINALIZER).await,
        }
    }
}

/// Somebody says that the node is gone for good: its Pods are lost, and nobody is waited for.
fn deleting(node: &Node, observed: &Observed, mut actions: Vec<Action>) -> Plan<Action> {
    if !actions.is_empty() {
        // The versions of the Pods change; the rest is planned from those.
        return Plan::act(actions, Next::After(Duration::ZERO));
    }
    let held = |pod: &&Pod| pod.metadata.finalizers.iter().flatten().any(|name| name == NODE_FINALIZER);
    actions.extend(observed.pods.iter().filter(held).map(|pod| Action::Release(Box::new(pod.clone()))));
    if node.metadata.finalizers.iter().flatten().any(|name| name == NODE_PODS_FINALIZER) {
        actions.push(Action::Forget);
    }
    Plan::act(actions, Next::AwaitChange)
}

impl NodeReconciler {
    async fn say(&self, node: &Node, ready: bool, now: Timestamp) -> Result<Effect, Failure> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        tracing::info!(node = name, ready, "whether a node is ready has changed");
        let (status, reason, message) = if ready {
            ("True", "Ready", "its agent renews its lease")
        } else {
            ("False", "NotReady", "its agent does not renew its lease")
        };
        let condition = json!({
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": now.to_string(),
        });
        let body = json!({
            "metadata": { "uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version },
            "status": { "conditions": [condition] },
        });
        let effect = self.objects.merge_status::<Node>(&Key::of(&node.metadata), &body).await?;
        self.watchful.said(name, ready);
        Ok(effect)
    }

    async fn lose(&self, node: &Node, pod: &Pod, now: Timestamp) -> Result<Effect, Failure> {
        let (key, name) = (Key::of(&pod.metadata), node.metadata.name.as_deref().unwrap_or_default());
        tracing::warn!(pod = %key, node = name, "nothing is heard of a Pod's node: its result is lost");
        let message = format!(
            "nothing is heard of node {name:?}: the result is lost, and what has begun is never begun again; what is left \
             of it ends when the node comes back"
        );
        let condition = json!({
            "type": "Ready", "status": "False", "reason": NODE_LOST, "lastTransitionTime": now.to_string(),
        });
        let body = json!({
            "metadata": { "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version },
            "status": {
                "phase": "Failed", "reason": NODE_LOST, "message": message, "conditions": [condition],
                "containerStatuses": null,
            },
        });
        self.objects.merge_status::<Pod>(&key, &body).await
    }
}

#[cfg(test)]
mod tests;
