//! What an apply changes: a merge patch of the fields that differ, computed from the manifest, the live object and the
//! fields that the last applied manifest had.
//!
//! Invariants: a field that no manifest named is never touched; a field that was taken out of the manifest is cleared;
//! lists are replaced as a whole; the record of what was applied holds names of fields, never their values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// The annotation with the fields of the manifest that was applied last.
pub(crate) const LAST_APPLIED: &str = "mainstay.dev/last-applied";
/// What the server keeps in `metadata`: a manifest that carries it (from `get -o yaml`) does not mean it.
const SERVERS: [&str; 7] =
    ["resourceVersion", "uid", "creationTimestamp", "generation", "managedFields", "selfLink", "deletionTimestamp"];

/// The object that a manifest asks for: without what only the server writes, and with `stringData` moved to `data`.
pub(crate) fn desired(mut manifest: Value) -> Value {
    if let Some(fields) = manifest.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = manifest["metadata"].as_object_mut() {
        metadata.retain(|name, _| !SERVERS.contains(&name.as_str()));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
        metadata.retain(|name, value| name != "annotations" || *value != json!({}));
    }
    if manifest["kind"] == "Secret"
        && manifest["apiVersion"] == "v1"
        && let Some(Value::Object(texts)) = manifest.as_object_mut().and_then(|fields| fields.remove("stringData"))
    {
        if !manifest["data"].is_object() {
            manifest["data"] = json!({});
        }
        for (name, text) in texts {
            // What is not a text is left to the server to refuse.
            manifest["data"][name] = text.as_str().map_or(text.clone(), |text| Value::from(STANDARD.encode(text)));
        }
    }
    manifest
}

/// The manifest with the record of itself, as it is sent for a new object.
pub(crate) fn for_create(desired: &Value) -> Value {
    let mut object = desired.clone();
    object["metadata"]["annotations"][LAST_APPLIED] = Value::from(record(desired).to_string());
    object
}

/// What is remembered of an applied manifest: which fields it had, not what was in them. That is all it takes to clear
/// those that are taken out later, and no secret or long text can get into it.
fn record(desired: &Value) -> Value {
    match desired {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), record(value))).collect(),
        _ => Value::Null,
    }
}

/// The merge patch that makes `live` as the manifest wants it; `None` when nothing differs.
pub(crate) fn patch(desired: &Value, live: &Value) -> Option<Value> {
    let stored = live["metadata"]["annotations"][LAST_APPLIED].as_str();
    let last: Value = stored.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let mut patch = difference(&last, desired, live);
    let record = record(desired);
    // A record with more names than the manifest does no harm: those that mattered are cleared by this very patch.
    if !patch.is_empty() || !covers(&last, &record) {
        patch.entry("metadata").or_insert_with(|| json!({}))["annotations"][LAST_APPLIED] =
            Value::from(record.to_string());
    }
    if patch.is_empty() {
        return None;
    }
    // So that nobody's write in between is overwritten.
    patch.entry("metadata").or_insert_with(|| json!({}))["resourceVersion"] =
        live["metadata"]["resourceVersion"].clone();
    Some(Value::Object(patch))
}

/// Whether every name of `record` is in `last`.
fn covers(last: &Value, record: &Value) -> bool {
    record
        .as_object()
        .is_none_or(|fields| fields.iter().all(|(name, below)| last.get(name).is_some_and(|last| covers(last, below))))
}

fn difference(last: &Value, desired: &Value, live: &Value) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, wanted) in desired.as_object().into_iter().flatten() {
        let has = live.get(name).unwrap_or(&Value::Null);
        if wanted.is_object() && has.is_object() {
            let below = difference(last.get(name).unwrap_or(&Value::Null), wanted, has);
            if !below.is_empty() {
                patch.insert(name.clone(), Value::Object(below));
            }
        } else if !same(wanted, has) {
            patch.insert(name.clone(), wanted.clone());
        }
    }
    for name in last.as_object().into_iter().flat_map(Map::keys) {
        if desired.get(name).is_none() && live.get(name).is_some() {
            patch.insert(name.clone(), Value::Null);
        }
    }
    patch
}

/// Whether a field is as wanted. Within lists an absent field and null are the same.
fn same(wanted: &Value, has: &Value) -> bool {
    match (wanted, has) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            let covered = |a: &Map<String, Value>, b: &Map<String, Value>| {
                a.iter().all(|(name, value)| same(value, b.get(name).unwrap_or(&Value::Null)))
            };
            covered(a, b) && covered(b, a)
        }
        _ => wanted == has,
    }
}

#[cfg(test)]
mod tests;
