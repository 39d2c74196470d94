//! Removes Events an hour after what they tell of last happened.
//!
//! Events are notes for people, made by whoever wants to tell something; nothing else would ever remove them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use kube::Client;
use mainstay_runtime::clock::Timeline;
use mainstay_runtime::{Clock, Failure, Timestamp};

use crate::driver::{Driver, Key};
use crate::objects::Objects;
use crate::reconcile::{Effect, FencingToken, Next, Plan, Reconciler};

/// How long an Event is kept: as long as kube-apiserver keeps one.
const KEPT: Duration = Duration::from_hours(1);

/// The reconciler of Events.
#[derive(Debug)]
pub struct EventReconciler {
    objects: Objects,
    clock: Clock,
}

/// Remove the Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remove;

/// A driver of Events, ready to start.
pub fn driver(client: Client, clock: &Clock) -> Driver<EventReconciler> {
    Driver::new(EventReconciler { objects: Objects::new(client.clone()), clock: clock.clone() }, client)
}

impl Reconciler for EventReconciler {
    type Object = Event;
    type Observed = Timeline;
    type Action = Remove;
    const NAME: &'static str = "event";
    const REPORTS: bool = false;

    async fn observe(&self, _: &Event) -> Result<Timeline, Failure> {
        Ok(self.clock.timeline())
    }

    fn plan(event: &Event, timeline: &Timeline, now: Timestamp) -> Plan<Remove> {
        if event.metadata.deletion_timestamp.is_some() {
            return Plan::settled(Next::AwaitChange);
        }
        // A time in the future says nothing of how long ago something was.
        let last = happened(event).map_or(now, |time| timeline.rebase(time, now).min(now));
        let age = Duration::try_from(now.duration_since(last)).unwrap_or_default();
        match KEPT.checked_sub(age) {
            Some(left) if !left.is_zero() => Plan::settled(Next::After(left)),
            _ => Plan::act([Remove], Next::AwaitChange),
        }
    }

    async fn apply(&self, event: &Event, Remove: Remove, _: FencingToken) -> Result<Effect, Failure> {
        self.objects.delete::<Event>(&Key::of(&event.metadata), event.metadata.uid.as_deref()).await
    }
}

/// When it last happened, or at least when it was noted down.
fn happened(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let first = event.event_time.as_ref().map(|time| time.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    [series, last, first, created].into_iter().flatten().max()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn words(changes: &Value) -> String {
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        let mut event = json!({
            "metadata": { "name": "one", "creationTimestamp": "2026-01-01T00:30:00Z" }, "involvedObject": {},
        });
        json_patch::merge(&mut event, changes);
        let event = serde_json::from_value(event).unwrap();
        match EventReconciler::plan(&event, &Timeline::default(), now) {
            Plan { actions, next: Next::After(left) } if actions.is_empty() => format!("{} s", left.as_secs()),
            Plan { actions, next } if actions.is_empty() => format!("{next:?}"),
            Plan { actions, .. } => format!("{actions:?}"),
        }
    }

    #[test]
    fn an_event_goes_an_hour_after_it_last_happened() {
        for (name, changes, expected) in [
            ("noted down long ago", json!({}), "[Remove]"),
            ("happened again", json!({ "lastTimestamp": "2026-01-01T01:10:00Z" }), "600 s"),
            ("just now due", json!({ "lastTimestamp": "2026-01-01T01:00:00Z" }), "[Remove]"),
            ("of a series", json!({ "series": { "lastObservedTime": "2026-01-01T01:59:00.000000Z" } }), "3540 s"),
            ("of the newer sort", json!({ "eventTime": "2026-01-01T01:30:00.000000Z" }), "1800 s"),
            ("in the future", json!({ "lastTimestamp": "2026-01-01T09:00:00Z" }), "3600 s"),
            ("going", json!({ "metadata": { "deletionTimestamp": "2026-01-01T01:00:00Z" } }), "AwaitChange"),
        ] {
            assert_eq!(words(&changes), expected, "{name}");
        }
    }
}
