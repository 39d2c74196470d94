//! Orders the renewal of session tokens, from half of their life on.
//!
//! The node agent fetches the new token; the order is an annotation on the Pod whose value says when it was given.
//!
//! Invariants:
//! - Every running Pod of a session gets an order at the start of the controller (R10): nobody knows how long the tokens
//!   were left alone.
//! - An order is written on the version that was read, and only for a Pod that runs and is to go on running.
//! - Each Pod is a key of its own: a failure with one, or with one project, holds up no other (R12).
//!
//! Revocation needs no order: the API refuses the token of a session whose run is over.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use mainstay_api::names;
use mainstay_runtime::{Clock, Failure, Timestamp};
use serde_json::json;

use crate::driver::{Driver, Key};
use crate::objects::Objects;
use crate::reconcile::{Effect, FencingToken, Next, Plan, Reconciler};

/// Half of a session token's life.
const HALF_LIFE: Duration = Duration::from_secs(450);

/// The reconciler of session tokens.
#[derive(Debug)]
pub struct TokenReconciler {
    objects: Objects,
    /// When this controller started.
    started: Timestamp,
}

/// Order a renewal, given now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renew(Timestamp);

/// A driver of session tokens, ready to start.
pub fn driver(client: Client, clock: &Clock) -> Driver<TokenReconciler> {
    Driver::new(TokenReconciler { objects: Objects::new(client.clone()), started: clock.now() }, client)
}

impl Reconciler for TokenReconciler {
    type Object = Pod;
    /// When this controller started.
    type Observed = Timestamp;
    type Action = Renew;
    const NAME: &'static str = "token";
    const REPORTS: bool = false;

    async fn observe(&self, _: &Pod) -> Result<Timestamp, Failure> {
        Ok(self.started)
    }

    fn plan(pod: &Pod, started: &Timestamp, now: Timestamp) -> Plan<Renew> {
        let annotation = |name: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(name));
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let runs = phase == Some("Running") && pod.metadata.deletion_timestamp.is_none();
        if !runs || annotation(names::SESSION_UID).is_none() {
            return Plan::settled(Next::AwaitChange);
        }
        let ordered = annotation(names::TOKEN_RENEWAL).and_then(|text| text.parse::<Timestamp>().ok());
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // A token is asked for when a Pod is taken on, so it is no older than the Pod.
        let last = ordered.or(created).unwrap_or(Timestamp::UNIX_EPOCH);
        let left = last
            .checked_add(HALF_LIFE)
            .map_or(Duration::ZERO, |due| Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO));
        // An order says when it was given; the time of creation is cut to whole seconds, and in doubt one order more does
        // no harm.
        let before_us = match ordered {
            Some(ordered) => ordered < *started,
            None => last.as_second() <= started.as_second(),
        };
        if before_us || left.is_zero() {
            return Plan::act([Renew(now)], Next::After(HALF_LIFE));
        }
        Plan::settled(Next::After(left))
    }

    async fn apply(&self, pod: &Pod, Renew(now): Renew, _: FencingToken) -> Result<Effect, Failure> {
        let body = json!({ "metadata": {
            "resourceVersion": pod.metadata.resource_version,
            "annotations": { names::TOKEN_RENEWAL: now.to_string() },
        } });
        self.objects.merge::<Pod>(&Key::of(&pod.metadata), &body).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, created: &str, ordered: Option<&str>, deleting: bool) -> Pod {
        let mut annotations = json!({ "mainstay.dev/session-uid": "s-1" });
        if let Some(ordered) = ordered {
            annotations["mainstay.dev/token-renewal"] = json!(ordered);
        }
        let deleted = deleting.then_some(created);
        let object = json!({
            "metadata": { "creationTimestamp": created, "annotations": annotations, "deletionTimestamp": deleted },
            "status": { "phase": phase },
        });
        serde_json::from_value(object).unwrap()
    }

    /// R10.
    #[test]
    fn tokens_are_renewed_from_half_life_and_at_the_start() {
        let started: Timestamp = "2026-01-01T01:00:00.5Z".parse().unwrap();
        let now: Timestamp = "2026-01-01T01:10:00Z".parse().unwrap();
        let renew = Plan::act([Renew(now)], Next::After(HALF_LIFE));
        let wait = |seconds| Plan::settled(Next::After(Duration::from_secs(seconds)));
        let (early, late) = ("2026-01-01T01:01:00Z", "2026-01-01T01:08:00Z");
        let settled = Plan::settled(Next::AwaitChange);
        for (name, phase, created, ordered, deleting, plan) in [
            ("R10: made before the start", "Running", "2026-01-01T00:59:59Z", None, false, &renew),
            ("R10: made in the second of the start", "Running", "2026-01-01T01:00:00Z", None, false, &renew),
            ("ordered before the start", "Running", early, Some("2026-01-01T00:59:59.9Z"), false, &renew),
            ("ordered in the start's second", "Running", early, Some("2026-01-01T01:00:00.2Z"), false, &renew),
            ("half of its life is over", "Running", early, None, false, &renew),
            ("fresh", "Running", late, None, false, &wait(330)),
            ("renewed", "Running", early, Some("2026-01-01T01:09:00Z"), false, &wait(390)),
            ("not yet running", "Pending", early, None, false, &settled),
            ("finished", "Failed", early, None, false, &settled),
            ("told to stop", "Running", early, None, true, &settled),
        ] {
            let pod = pod(phase, created, ordered, deleting);
            assert_eq!(TokenReconciler::plan(&pod, &started, now), *plan, "{name}");
        }
    }
}
