//! Aggregated discovery: all groups in one document.

use http::header::HeaderValue;
use serde_json::{Value, json};

use super::document::Document;
use super::resources::{Group, Resource};

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// `/api` or `/apis`; both versions say the same.
pub(super) fn document(groups: &[Group], beta: bool) -> Document {
    let (media, version) = if beta { (V2BETA1, "v2beta1") } else { (V2, "v2") };
    let items: Vec<_> = groups.iter().map(group).collect();
    let value = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    Document::new(HeaderValue::from_static(media), &value)
}

fn group(group: &Group) -> Value {
    let versions: Vec<_> = group
        .versions
        .iter()
        .map(|(version, resources)| {
            let resources: Vec<_> = resources.iter().map(resource).collect();
            json!({ "version": version, "resources": resources, "freshness": "Current" })
        })
        .collect();
    let metadata = if group.name.is_empty() { json!({}) } else { json!({ "name": group.name }) };
    json!({ "metadata": metadata, "versions": versions })
}

fn resource(resource: &Resource) -> Value {
    let mut value = json!({
        "resource": resource.plural,
        "responseKind": { "group": resource.group, "version": resource.version, "kind": resource.kind },
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = resource.short_names.into();
    }
    if !resource.categories.is_empty() {
        value["categories"] = resource.categories.into();
    }
    if !resource.subresources.is_empty() {
        let below = resource.subresources.iter().map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": { "group": sub.group, "version": sub.version, "kind": sub.kind },
                "verbs": sub.verbs,
            })
        });
        value["subresources"] = below.collect();
    }
    value
}
