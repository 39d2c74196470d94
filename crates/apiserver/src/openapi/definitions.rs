//! The schemas of a group's kinds, their lists, and what they refer to.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest};
use k8s_openapi::api::authorization::v1::{SelfSubjectAccessReview, SelfSubjectRulesReview};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, ObjectMeta, Status};
use mainstay_api::schema;
use serde_json::{Map, Value, json};

use super::names;
use crate::discovery::Resource;

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object.";
const KIND: &str = "Kind is the resource that this object represents, in CamelCase. Cannot be updated.";

/// How upstream's own descriptions of the two types begin.
const GENERIC: [&str; 2] = ["Quantity is a fixed-point representation", "IntOrString is a type"];

/// All definitions of one document.
pub(super) fn of(resources: &[Resource]) -> Map<String, Value> {
    let mut all = shared();
    for resource in resources {
        let (group, version, kind) = (resource.group, resource.version, resource.kind);
        let name = names::kind(group, version, kind);
        let (schema, listed) = match &resource.stored {
            Some(stored) => ((stored.schema)(), true),
            None => (question(kind), false),
        };
        all.insert(name.clone(), object(schema, group, version, kind));
        if listed {
            all.insert(names::kind(group, version, &format!("{kind}List")), list(&name, group, version, kind));
        }
        for sub in resource.subresources.iter().filter(|sub| sub.kind == "TokenRequest") {
            let name = names::kind(sub.group, sub.version, sub.kind);
            all.insert(name, object(schema::of::<TokenRequest>(), sub.group, sub.version, sub.kind));
        }
    }
    all
}

fn shared() -> Map<String, Value> {
    let patch = json!({
        "description": "Patch is a JSON merge patch or a JSON patch of an object.",
        "type": "object",
    });
    let quantity = json!({
        "description": "Quantity is a fixed-point number, such as 500m, 2, 256Mi or 1G.",
        "oneOf": [{ "type": "string" }, { "type": "number" }],
    });
    let int_or_string = json!({
        "description": "IntOrString is an integer or a string.",
        "format": "int-or-string",
        "oneOf": [{ "type": "integer" }, { "type": "string" }],
    });
    [
        (names::OBJECT_META, schema::of::<ObjectMeta>()),
        (names::LIST_META, schema::of::<ListMeta>()),
        (names::STATUS, schema::of::<Status>()),
        (names::DELETE_OPTIONS, schema::of::<DeleteOptions>()),
        (names::PATCH, patch),
        (names::QUANTITY, quantity),
        (names::INT_OR_STRING, int_or_string),
    ]
    .into_iter()
    .map(|(name, mut schema)| {
        publish(&mut schema);
        (name.to_owned(), schema)
    })
    .collect()
}

fn question(kind: &str) -> Value {
    match kind {
        "SelfSubjectReview" => schema::of::<SelfSubjectReview>(),
        "SelfSubjectAccessReview" => schema::of::<SelfSubjectAccessReview>(),
        "SelfSubjectRulesReview" => schema::of::<SelfSubjectRulesReview>(),
        _ => json!({ "type": "object" }),
    }
}

/// A kind's schema as it is published.
fn object(mut schema: Value, group: &str, version: &str, kind: &str) -> Value {
    publish(&mut schema);
    let Some(fields) = schema.as_object_mut() else { return schema };
    let properties = fields.entry("properties").or_insert_with(|| json!({}));
    properties["apiVersion"] = json!({ "description": API_VERSION, "type": "string" });
    properties["kind"] = json!({ "description": KIND, "type": "string" });
    properties["metadata"] = meta(names::OBJECT_META, "Standard object's metadata.");
    if let Some(Value::Array(required)) = fields.get_mut("required") {
        required.retain(|name| name != "metadata");
    }
    fields.insert("type".to_owned(), "object".into());
    fields.insert("x-kubernetes-group-version-kind".to_owned(), kinds(group, version, kind));
    schema
}

fn list(item: &str, group: &str, version: &str, kind: &str) -> Value {
    let name = format!("{kind}List");
    json!({
        "description": format!("{name} is a list of {kind}."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "description": API_VERSION, "type": "string" },
            "kind": { "description": KIND, "type": "string" },
            "metadata": meta(names::LIST_META, "Standard list metadata."),
            "items": { "description": "The objects.", "type": "array", "items": names::reference(item) },
        },
        "x-kubernetes-group-version-kind": kinds(group, version, &name),
    })
}

fn meta(name: &str, description: &str) -> Value {
    json!({ "description": description, "default": {}, "allOf": [names::reference(name)] })
}

fn kinds(group: &str, version: &str, kind: &str) -> Value {
    json!([{ "group": group, "version": version, "kind": kind }])
}

/// Puts references where a value may be a number or a string: clients know those definitions by name.
fn publish(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    if fields.remove("x-kubernetes-int-or-string").is_some() {
        let quantity = fields.remove("format").is_some_and(|format| format == "quantity");
        let target = names::reference(if quantity { names::QUANTITY } else { names::INT_OR_STRING });
        // The definition has a description; only what a field says of itself is worth repeating.
        let own = |value: &Value| {
            !value.as_str().is_some_and(|text| text.starts_with(GENERIC[0]) || text.starts_with(GENERIC[1]))
        };
        fields.retain(|keyword, value| match keyword.as_str() {
            "description" => own(value),
            keyword => matches!(keyword, "default" | "nullable"),
        });
        fields.insert("allOf".to_owned(), json!([target]));
        return;
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(publish);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(child) = fields.get_mut(keyword) {
            publish(child);
        }
    }
    for keyword in ["allOf", "anyOf", "oneOf"] {
        if let Some(Value::Array(branches)) = fields.get_mut(keyword) {
            branches.iter_mut().for_each(publish);
        }
    }
}
