use serde_json::{Value, json};

use super::*;

/// What the rules of a kind say of an object, and of its change from an older one.
fn faults(kind: &str, new: &Value, old: Option<&Value>) -> Vec<String> {
    let kind = kinds().into_iter().find(|found| found.kind == kind).unwrap();
    (kind.rules.check)(new, old).iter().map(ToString::to_string).collect()
}

#[test]
fn wrong_objects_are_refused_by_field() {
    let role = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": name, "name": "x"});
    let table = [
        ("Role", json!({"rules": [{"verbs": []}]}), vec!["rules[0].verbs", "rules[0].apiGroups", "rules[0].resources"]),
        ("Role", json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}), vec!["rules[0].nonResourceURLs"]),
        ("ClusterRole", json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}), vec![]),
        (
            "ClusterRole",
            json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]}),
            vec!["rules[0].nonResourceURLs"],
        ),
        ("RoleBinding", json!({"roleRef": role("Role")}), vec![]),
        ("ClusterRoleBinding", json!({"roleRef": role("Role")}), vec!["roleRef.kind"]),
        ("RoleBinding", json!({"roleRef": {}}), vec!["roleRef.apiGroup", "roleRef.kind", "roleRef.name"]),
        (
            "ClusterRoleBinding",
            json!({"roleRef": role("ClusterRole"), "subjects": [{"kind": "ServiceAccount", "name": "x"}]}),
            vec!["subjects[0].namespace"],
        ),
        (
            "RoleBinding",
            json!({"roleRef": role("Role"), "subjects": [{"kind": "Robot", "name": "x"}, {"kind": "User", "name": ""}]}),
            vec!["subjects[0].kind", "subjects[1].name"],
        ),
        ("Lease", json!({"spec": {"leaseDurationSeconds": 0}}), vec!["spec.leaseDurationSeconds"]),
        ("Lease", json!({"spec": {"leaseDurationSeconds": 15, "leaseTransitions": 0}}), vec![]),
        ("Secret", json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), vec!["data[tls.key]"]),
        ("Secret", json!({"type": "kubernetes.io/service-account-token"}), vec!["type"]),
        ("ConfigMap", json!({"data": {"a": ""}, "binaryData": {"a": ""}}), vec!["binaryData[a]"]),
        ("ServiceAccount", json!({"automountServiceAccountToken": false, "secrets": []}), vec![]),
        ("ServiceAccount", json!({"automountServiceAccountToken": true}), vec!["automountServiceAccountToken"]),
        ("Event", json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}}), vec![]),
        ("Event", json!({"metadata": {"namespace": "default"}, "involvedObject": {}}), vec![]),
        ("Event", json!({"metadata": {"namespace": "a"}, "involvedObject": {}}), vec!["involvedObject.namespace"]),
    ];
    for (kind, object, fields) in table {
        let found = faults(kind, &object, None);
        let paths: Vec<&str> = found.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
        assert_eq!(paths, fields, "{kind} {object}: {found:?}");
    }
}

#[test]
fn what_others_rely_on_cannot_be_changed() {
    let old = json!({"type": "Opaque", "data": {"a": "YQ=="}});
    let new = json!({"type": "other", "data": {"a": "YQ=="}});
    assert_eq!(faults("Secret", &new, Some(&old)), ["type: Invalid value: \"other\": field is immutable"]);
    let role = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
    let found = faults("RoleBinding", &json!({"roleRef": role("b")}), Some(&json!({"roleRef": role("a")})));
    assert!(found.len() == 1 && found[0].starts_with("roleRef: Invalid value: "), "{found:?}");
}
