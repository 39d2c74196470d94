//! The `Reconciled` condition: tells people of a key that goes on failing, and takes it back.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::Resource;
use mainstay_runtime::{Class, Classify, Failure, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::Key;
use crate::objects::{Objects, merge_condition};
use crate::reconcile::Effect;

const RECONCILED: &str = "Reconciled";
/// A lost race for the status is repeated this often before it is left to the next failure.
const TRIES: usize = 3;
/// Longest message of an Event, in characters.
const LONGEST_NOTE: usize = 1_024;
/// Longest message of a condition, in characters.
const LONGEST: usize = 2_048;

/// What the condition is to say.
pub(super) struct Report(Condition);

impl Report {
    pub(super) fn failure(failure: &Failure, count: u32, now: Timestamp) -> Self {
        let times = if count == 1 { "1 time".to_owned() } else { format!("{count} times in a row") };
        let chain: String = failure.chain().chars().take(LONGEST).collect();
        Self::new("False", failure.class().as_str(), format!("{chain} (failed {times})"), now)
    }

    pub(super) fn success(now: Timestamp) -> Self {
        Self::new("True", "Succeeded", String::new(), now)
    }

    fn new(status: &str, reason: &str, message: String, now: Timestamp) -> Self {
        Self(Condition {
            type_: RECONCILED.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: Time(now),
            observed_generation: None,
        })
    }
}

/// Whether a failure was reported and not taken back.
pub(super) fn tells_of_failure(conditions: &[Condition]) -> bool {
    conditions.iter().any(|condition| condition.type_ == RECONCILED && condition.status == "False")
}

/// Merges the condition into the object's status, on the version that was read.
pub(super) async fn write<K>(objects: &Objects, key: &Key, report: &Report) -> Result<Effect, Failure>
where
    K: Resource<DynamicType = ()>,
{
    let mut last = Ok(Effect::NONE);
    for _ in 0..TRIES {
        let Some(object) = objects.get_as::<K, Value>(key).await? else {
            return Ok(Effect::NONE);
        };
        last = objects.merge_status::<K>(key, &patch_of(&object, &report.0)).await;
        if !last.as_ref().is_err_and(|failure| failure.class() == Class::Conflict) {
            break;
        }
    }
    last
}

/// Records a failure as an Event beside the object, where `kubectl describe` shows it.
pub(super) async fn record<K>(
    objects: &Objects,
    controller: &'static str,
    key: &Key,
    meta: &ObjectMeta,
    Report(condition): &Report,
) -> Result<(), Failure>
where
    K: Resource<DynamicType = ()>,
{
    let namespace = key.namespace.as_deref().unwrap_or("default");
    let now = &condition.last_transition_time;
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": format!("{}.{:x}", key.name, now.0.as_nanosecond()) },
        "involvedObject": {
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "namespace": key.namespace,
            "name": key.name,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "type": "Warning",
        "reason": condition.reason,
        "message": condition.message.chars().take(LONGEST_NOTE).collect::<String>(),
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": { "component": controller },
    });
    let place = Event::url_path(&(), Some(namespace));
    objects.post::<IgnoredAny>(&place, &event, "record an Event").await.map(drop)
}

fn patch_of(object: &Value, condition: &Condition) -> Value {
    let mut conditions = Vec::<Condition>::deserialize(&object["status"]["conditions"]).unwrap_or_default();
    merge_condition(&mut conditions, condition.clone());
    json!({
        "metadata": { "resourceVersion": object["metadata"]["resourceVersion"] },
        "status": { "conditions": conditions },
    })
}
