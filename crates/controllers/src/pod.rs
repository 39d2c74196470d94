//! Lets go of a [`Pod`] that is being deleted, as soon as no session is left to read how it ended.
//!
//! A session's Pod is held by a finalizer of ours, so that whoever deletes it by hand cannot take its record away before
//! the session has judged it. While the run lives its session lets go of the Pod, together with the judgement; here goes
//! everything else: Pods of earlier runs, of runs that were judged before, and of sessions that are going or gone.
//!
//! Invariants:
//! - A Pod is let go only when it is being deleted, by what a live read shows of its session.
//! - No Pod is held for a session that is not there.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use mainstay_api::names;
use mainstay_api::session::Session;
use mainstay_runtime::{Failure, Timestamp};

use crate::driver::{Driver, Targets, controller_of};
use crate::objects::Objects;
use crate::reconcile::{Effect, FencingToken, Next, Plan, Reconciler};

/// A session that is to judge the Pod's end lets go of it itself; should it vanish instead, this notices.
const RECHECK: Duration = Duration::from_secs(5);

/// The reconciler of Pods that are being deleted.
#[derive(Debug)]
pub struct PodReconciler {
    objects: Objects,
}

/// Let the Pod go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release;

/// A driver of Pods, ready to start.
pub fn driver(client: Client) -> Driver<PodReconciler> {
    Driver::new(PodReconciler { objects: Objects::new(client.clone()) }, client)
}

/// It goes when the last of those who hold it lets go, and we are among them.
fn is_held(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        && pod.metadata.finalizers.iter().flatten().any(|name| name == names::SESSION_FINALIZER)
}

/// Whether this session is yet to judge how the Pod ended.
fn awaits(session: &Session, pod: &Pod) -> bool {
    let uid = session.metadata.uid.as_deref().unwrap_or_default();
    let owns = pod.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid);
    let status = session.status.as_ref();
    let run = status.and_then(|status| status.run).unwrap_or(session.spec.run);
    let name = session.metadata.name.as_deref().unwrap_or_default();
    owns && session.metadata.deletion_timestamp.is_none()
        && pod.metadata.name.as_deref() == Some(&names::pod_name(name, run))
        && !status.is_some_and(|status| status.phase.is_terminal())
}

impl Reconciler for PodReconciler {
    type Object = Pod;
    /// The session that the Pod names as its controller, if it is there.
    type Observed = Option<Session>;
    type Action = Release;
    const NAME: &'static str = "pod";
    const REPORTS: bool = false;

    async fn observe(&self, pod: &Pod) -> Result<Option<Session>, Failure> {
        match controller_of(&pod.metadata, "Session") {
            Targets::Key(session) if is_held(pod) => self.objects.get::<Session>(&session).await,
            _ => Ok(None),
        }
    }

    fn plan(pod: &Pod, session: &Option<Session>, _: Timestamp) -> Plan<Release> {
        if !is_held(pod) {
            Plan::settled(Next::AwaitChange)
        } else if session.as_ref().is_some_and(|session| awaits(session, pod)) {
            Plan::settled(Next::After(RECHECK))
        } else {
            Plan::act([Release], Next::AwaitChange)
        }
    }

    async fn apply(&self, pod: &Pod, Release: Release, _: FencingToken) -> Result<Effect, Failure> {
        self.objects.remove_finalizer(pod, names::SESSION_FINALIZER).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn words(pod: &Value, session: Option<&Value>) -> &'static str {
        let mut object = json!({ "metadata": {
            "name": "fix-2", "finalizers": ["mainstay.dev/session"], "deletionTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{ "apiVersion": "v", "kind": "Session", "name": "fix", "uid": "s-1", "controller": true }],
        } });
        json_patch::merge(&mut object, pod);
        let session = session.map(|changes| {
            let mut object = json!({
                "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "metadata": { "name": "fix", "uid": "s-1" },
                "spec": { "run": 2 }, "status": { "phase": "Running", "run": 2 },
            });
            json_patch::merge(&mut object, changes);
            serde_json::from_value(object).unwrap()
        });
        let plan = PodReconciler::plan(&serde_json::from_value(object).unwrap(), &session, Timestamp::UNIX_EPOCH);
        match (plan.actions.as_slice(), plan.next) {
            ([], Next::AwaitChange) => "nothing",
            ([], Next::After(_)) => "wait",
            ([Release], Next::AwaitChange) => "release",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_deleted_pod_stays_until_its_end_is_judged_and_no_longer() {
        let as_it_is = json!({});
        for (name, session, expected) in [
            ("its session is yet to judge it", Some(json!({})), "wait"),
            ("and has not seen it yet", Some(json!({ "status": { "phase": "Pending", "run": null } })), "wait"),
            ("or is stopping it", Some(json!({ "status": { "phase": "Stopping" } })), "wait"),
            ("judged", Some(json!({ "status": { "phase": "Failed" } })), "release"),
            ("of an earlier run", Some(json!({ "status": { "phase": "Pending", "run": 3 } })), "release"),
            (
                "its session goes",
                Some(json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } })),
                "release",
            ),
            ("its session is another one", Some(json!({ "metadata": { "uid": "s-2" } })), "release"),
            ("its session is gone", None, "release"),
        ] {
            assert_eq!(words(&as_it_is, session.as_ref()), expected, "{name}");
        }
        assert_eq!(words(&json!({ "metadata": { "deletionTimestamp": null } }), None), "nothing", "nobody deletes it");
        assert_eq!(words(&json!({ "metadata": { "finalizers": ["mainstay.dev/node"] } }), None), "nothing", "let go");
    }
}
