//! Objects as JSON values: their metadata, and how they become the bytes that are stored.

use bytes::Bytes;
use mainstay_api::Kind;
use mainstay_runtime::Timestamp;
use mainstay_store::{Draft, Object};
use serde_json::{Map, Value};
use std::sync::Arc;

use crate::catalog::Entry;
use crate::selector;
use crate::status::{ApiError, ApiResult};

/// Metadata that is not stored: the revision is stamped by the store, the others are not kept by this server.
const NOT_STORED: [&str; 3] = ["resourceVersion", "managedFields", "selfLink"];

/// `metadata.FIELD` as text; empty when absent.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or("")
}

/// Sets `metadata.FIELD`.
pub(crate) fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata[field] = value.into();
}

/// Removes `metadata.FIELD`.
pub(crate) fn unset(object: &mut Value, field: &str) -> Option<Value> {
    object["metadata"].as_object_mut()?.remove(field)
}

/// Takes `metadata.FIELD` from another state of the object: its value, or its absence.
pub(crate) fn take_from(object: &mut Value, other: &Value, field: &str) {
    match other["metadata"].get(field) {
        Some(value) => set(object, field, value.clone()),
        None => drop(unset(object, field)),
    }
}

/// Whether the object is being deleted.
pub(crate) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a stored object, of which only this is read, is being deleted.
pub(crate) fn is_terminating(stored: &Object) -> bool {
    #[derive(serde::Deserialize)]
    struct Probe {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Probe>(&stored.body).is_ok_and(|probe| probe.metadata.deletion_timestamp.is_some())
}

/// Whether something still holds a deleted object.
pub(crate) fn is_held(object: &Value) -> bool {
    let spec = &object["spec"]["finalizers"];
    !finalizers(object).is_empty()
        || (object["kind"] == "Namespace" && spec.as_array().is_some_and(|list| !list.is_empty()))
}

/// A time as metadata carries it: whole seconds, UTC.
pub(crate) fn time(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// Parses stored bytes.
///
/// # Errors
/// 500: stored bytes are JSON that this server wrote.
pub(crate) fn parse(object: &Object) -> ApiResult<Value> {
    serde_json::from_slice(&object.body).map_err(|error| {
        tracing::error!(key = %object.key, %error, "a stored object cannot be parsed");
        ApiError::internal(format_args!("the stored object {} cannot be parsed", object.key))
    })
}

/// The object as bytes, cut where the store puts its revision.
///
/// # Errors
/// 500 when it cannot be serialised, which a parsed value always can.
pub(crate) fn draft(entry: &Entry, object: &Value) -> ApiResult<Draft> {
    let tail = tail(object).map_err(ApiError::internal)?;
    let meta = Arc::new(selector::meta_of(&entry.kind, object));
    Ok(Draft { head: entry.head.clone(), tail, meta, queued: None })
}

/// As [`draft`], without a catalog.
///
/// # Errors
/// When it cannot be serialised, which a parsed value always can.
pub(crate) fn draft_of(kind: &Kind, object: &Value) -> serde_json::Result<Draft> {
    let meta = Arc::new(selector::meta_of(kind, object));
    Ok(Draft { head: head(kind).into(), tail: tail(object)?, meta, queued: None })
}

/// What the stored objects of a kind begin with, up to the opening quote of their resourceVersion.
pub(crate) fn head(kind: &Kind) -> String {
    format!(
        "{{\"apiVersion\":\"{}\",\"kind\":\"{}\",\"metadata\":{{\"resourceVersion\":\"",
        kind.api_version(),
        kind.kind
    )
}

fn tail(object: &Value) -> serde_json::Result<Bytes> {
    let mut tail = Vec::with_capacity(1_024);
    tail.push(b'"');
    for (name, value) in object["metadata"].as_object().into_iter().flatten() {
        if !NOT_STORED.contains(&name.as_str()) {
            member(&mut tail, name, value)?;
        }
    }
    tail.push(b'}');
    for (name, value) in object.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            member(&mut tail, name, value)?;
        }
    }
    tail.push(b'}');
    Ok(tail.into())
}

fn member(out: &mut Vec<u8>, name: &str, value: &Value) -> serde_json::Result<()> {
    out.push(b',');
    serde_json::to_writer(&mut *out, name)?;
    out.push(b':');
    serde_json::to_writer(out, value)
}

/// Serialises an object that is not stored bytes.
///
/// # Errors
/// 500 when it cannot be serialised, which a parsed value always can.
pub(crate) fn to_bytes(object: &Value) -> ApiResult<Bytes> {
    serde_json::to_vec(object).map(Into::into).map_err(ApiError::internal)
}

/// Whether two states of an object differ in anything but the named top-level fields and their revision.
pub(crate) fn same_but_revision(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    a.len() == b.len()
        && a.iter().all(|(name, value)| match (name.as_str(), b.get(name)) {
            (_, None) => false,
            ("metadata", Some(other)) => same_metadata(value, other),
            (_, Some(other)) => value == other,
        })
}

fn same_metadata(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let kept = |map: &Map<String, Value>| map.keys().filter(|name| !NOT_STORED.contains(&name.as_str())).count();
    kept(a) == kept(b)
        && a.iter()
            .filter(|(name, _)| !NOT_STORED.contains(&name.as_str()))
            .all(|(name, value)| b.get(name) == Some(value))
}

/// Whether two states differ outside of metadata and status: what `metadata.generation` counts.
pub(crate) fn spec_differs(a: &Value, b: &Value) -> bool {
    let counted = |object: &Value| -> usize {
        object.as_object().into_iter().flatten().filter(|(name, _)| is_spec(name)).count()
    };
    counted(a) != counted(b)
        || a.as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| is_spec(name))
            .any(|(name, value)| b.get(name) != Some(value))
}

fn is_spec(name: &str) -> bool {
    !matches!(name, "apiVersion" | "kind" | "metadata" | "status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_and_spec_are_compared_apart() {
        let old = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"x": 1}, "status": {"y": 1}});
        let mut new = old.clone();
        new["metadata"]["resourceVersion"] = json!("9");
        new["metadata"]["managedFields"] = json!([]);
        assert!(same_but_revision(&old, &new) && !spec_differs(&old, &new));
        new["status"]["y"] = json!(2);
        assert!(!same_but_revision(&old, &new) && !spec_differs(&old, &new));
        new["spec"]["x"] = json!(2);
        assert!(spec_differs(&old, &new));
        new.as_object_mut().unwrap().remove("spec");
        assert!(spec_differs(&old, &new));
    }

    #[test]
    fn times_are_whole_seconds() {
        let at: Timestamp = "2026-01-02T03:04:05.999Z".parse().unwrap();
        assert_eq!(time(at), "2026-01-02T03:04:05Z");
    }
}
