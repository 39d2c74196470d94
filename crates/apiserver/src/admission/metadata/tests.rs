use mainstay_api::Registry;
use serde_json::{Value, json};

use super::*;

fn faults(plural: &str, group: &str, metadata: &Value) -> Vec<String> {
    let registry = Registry::standard();
    let kind = registry.iter().find(|kind| kind.plural == plural && kind.group == group).unwrap();
    all(kind, &json!({ "metadata": metadata })).iter().map(|error| error.path.clone()).collect()
}

#[test]
fn names_are_checked_by_kind() {
    let table: [(&str, &str, &str, bool); 9] = [
        ("configmaps", "", "a.b-c", true),
        ("configmaps", "", "A", false),
        ("configmaps", "", "a_b", false),
        ("configmaps", "", "", false),
        ("namespaces", "", "a.b", false),
        ("namespaces", "", "a-b", true),
        ("roles", "rbac.authorization.k8s.io", "system:node", true),
        ("roles", "rbac.authorization.k8s.io", "a/b", false),
        ("roles", "rbac.authorization.k8s.io", "..", false),
    ];
    for (plural, group, name, fine) in table {
        assert_eq!(faults(plural, group, &json!({ "name": name })).is_empty(), fine, "{plural} {name:?}");
    }
}

#[test]
fn labels_annotations_finalizers_and_owners_are_checked() {
    let owner = |controller: bool| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": controller});
    let table = [
        (json!({"name": "a", "labels": {"x": "y"}, "annotations": {"x/Y": "anything\n"}}), None),
        (json!({"name": "a", "labels": {"-x": "y"}}), Some("metadata.labels")),
        (json!({"name": "a", "labels": {"x": "y z"}}), Some("metadata.labels")),
        (json!({"name": "a", "annotations": {"": "y"}}), Some("metadata.annotations")),
        (json!({"name": "a", "annotations": {"x": "y".repeat(300_000)}}), Some("metadata.annotations")),
        (json!({"name": "a", "finalizers": ["a.b/c", "a.b/c"]}), Some("metadata.finalizers[1]")),
        (json!({"name": "a", "finalizers": ["not one"]}), Some("metadata.finalizers[0]")),
        (json!({"name": "a", "ownerReferences": [owner(true)]}), None),
        (json!({"name": "a", "ownerReferences": [owner(true), owner(true)]}), Some("metadata.ownerReferences")),
        (
            json!({"name": "a", "ownerReferences": [{"kind": "x", "name": "y", "uid": "z"}]}),
            Some("metadata.ownerReferences[0].apiVersion"),
        ),
    ];
    for (metadata, path) in table {
        assert_eq!(faults("configmaps", "", &metadata).first().map(String::as_str), path, "{metadata}");
    }
}

#[test]
fn what_the_schema_refused_is_not_refused_twice() {
    let registry = Registry::standard();
    let kind = registry.iter().find(|kind| kind.plural == "configmaps").unwrap();
    let mut errors = vec![FieldError::new("metadata.labels.a", Fault::TypeInvalid, "must be a string")];
    check(kind, &json!({"metadata": {"name": "A", "labels": {"a": 5}}}), &mut errors);
    let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["metadata.labels.a", "metadata.name"]);
}
