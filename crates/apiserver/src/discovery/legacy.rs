//! Legacy discovery: one document per group and version. kube-rs and old clients use nothing else.

use serde_json::{Map, Value, json};

use super::resources::{Group, Resource, Subresource};

/// `/api`.
pub(super) fn versions(core: &[Group]) -> Value {
    let versions: Vec<_> = core.iter().flat_map(|group| &group.versions).map(|(version, _)| *version).collect();
    json!({ "kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": [] })
}

/// `/apis`.
pub(super) fn group_list(groups: &[Group]) -> Value {
    let groups: Vec<_> = groups.iter().map(|one| group(one, false)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/GROUP`, or the group's place in the list of groups.
pub(super) fn group(group: &Group, alone: bool) -> Value {
    let versions: Vec<_> = group
        .versions
        .iter()
        .map(|(version, _)| json!({ "groupVersion": group.group_version(version), "version": version }))
        .collect();
    let mut value = json!({ "name": group.name, "preferredVersion": versions.first(), "versions": versions });
    if alone {
        value["kind"] = "APIGroup".into();
        value["apiVersion"] = "v1".into();
    }
    value
}

/// `/apis/GROUP/VERSION`.
pub(super) fn resource_list(group_version: &str, resources: &[Resource]) -> Value {
    let mut list = Vec::new();
    for resource in resources {
        list.push(entry(resource));
        list.extend(resource.subresources.iter().map(|sub| below(resource, sub)));
    }
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list })
}

fn entry(resource: &Resource) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), resource.plural.into());
    fields.insert("singularName".to_owned(), resource.singular.into());
    fields.insert("namespaced".to_owned(), resource.namespaced.into());
    fields.insert("kind".to_owned(), resource.kind.into());
    fields.insert("verbs".to_owned(), resource.verbs.into());
    if !resource.short_names.is_empty() {
        fields.insert("shortNames".to_owned(), resource.short_names.into());
    }
    if !resource.categories.is_empty() {
        fields.insert("categories".to_owned(), resource.categories.into());
    }
    fields.into()
}

fn below(resource: &Resource, sub: &Subresource) -> Value {
    let mut value = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if (sub.group, sub.version) != (resource.group, resource.version) {
        value["group"] = sub.group.into();
        value["version"] = sub.version.into();
    }
    value
}
