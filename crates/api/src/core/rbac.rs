//! The RBAC kinds: roles and who has them.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::Value;

use super::{PLAIN, column};
use crate::common::quoted;
use crate::field::FieldError;
use crate::kind::{Kind, Rules};
use crate::schema;

const RBAC: Kind = Kind { group: "rbac.authorization.k8s.io", ..PLAIN };

/// The rows of these kinds in the registry.
pub(super) fn kinds() -> [Kind; 4] {
    let role = Kind {
        kind: "Role",
        plural: "roles",
        singular: "role",
        schema: schema::of::<Role>,
        rules: Rules { check: check_role, ..Rules::NONE },
        ..RBAC
    };
    let binding = Kind {
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        columns: const { &[column("Role", "roleRef.name")] },
        schema: schema::of::<RoleBinding>,
        rules: Rules { check: check_binding, ..Rules::NONE },
        ..RBAC
    };
    [
        Kind {
            kind: "ClusterRole",
            plural: "clusterroles",
            singular: "clusterrole",
            namespaced: false,
            schema: schema::of::<ClusterRole>,
            rules: Rules { check: check_cluster_role, ..Rules::NONE },
            ..RBAC
        },
        Kind {
            kind: "ClusterRoleBinding",
            plural: "clusterrolebindings",
            singular: "clusterrolebinding",
            namespaced: false,
            schema: schema::of::<ClusterRoleBinding>,
            rules: Rules { check: check_cluster_binding, ..Rules::NONE },
            ..binding.clone()
        },
        role,
        binding,
    ]
}

fn check_role(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    check_rules(&new["rules"], true)
}

fn check_cluster_role(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let aggregated = !new["aggregationRule"].is_null();
    let refused = || FieldError::forbidden("aggregationRule", "aggregation is not supported; list the rules");
    aggregated.then(refused).into_iter().chain(check_rules(&new["rules"], false)).collect()
}

/// A rule that grants nothing, or not what it seems to, is a mistake.
fn check_rules(rules: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, rule) in rules.as_array().into_iter().flatten().enumerate() {
        let has = |field: &str| rule[field].as_array().is_some_and(|list| !list.is_empty());
        let mut required = |field: &str, detail: &str| {
            if !has(field) {
                errors.push(FieldError::required(format!("rules[{at}].{field}"), detail));
            }
        };
        required("verbs", "verbs must contain at least one value");
        if !has("nonResourceURLs") {
            required("apiGroups", "resource rules must supply at least one api group");
            required("resources", "resource rules must supply at least one resource");
            continue;
        }
        let both = ["apiGroups", "resources", "resourceNames"].into_iter().any(has);
        let detail = match (namespaced, both) {
            (true, _) => "namespaced rules cannot apply to non-resource URLs",
            (false, true) => "rules cannot apply to both regular resources and non-resource URLs",
            (false, false) => continue,
        };
        let path = format!("rules[{at}].nonResourceURLs");
        errors.push(FieldError::invalid(path, &rule["nonResourceURLs"], detail));
    }
    errors
}

fn check_binding(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    check_role_ref(new, old, &["ClusterRole", "Role"]).into_iter().chain(check_subjects(new, false)).collect()
}

fn check_cluster_binding(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    check_role_ref(new, old, &["ClusterRole"]).into_iter().chain(check_subjects(new, true)).collect()
}

/// A binding's role cannot be changed: delete and create it anew, so that nobody's rights change under them.
fn check_role_ref(new: &Value, old: Option<&Value>, kinds: &[&str]) -> Vec<FieldError> {
    let role = &new["roleRef"];
    let text = |field: &str| role[field].as_str().unwrap_or_default();
    let mut errors = Vec::new();
    if old.is_some_and(|old| old["roleRef"] != *role) {
        errors.push(FieldError::invalid("roleRef", role, "cannot change roleRef: delete the binding and make it anew"));
    }
    if text("apiGroup") != RBAC.group {
        errors.push(FieldError::not_supported("roleRef.apiGroup", text("apiGroup"), &[RBAC.group]));
    }
    if !kinds.contains(&text("kind")) {
        errors.push(FieldError::not_supported("roleRef.kind", text("kind"), kinds));
    }
    if text("name").is_empty() {
        errors.push(FieldError::required("roleRef.name", "name the role"));
    }
    errors
}

fn check_subjects(new: &Value, everywhere: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, subject) in new["subjects"].as_array().into_iter().flatten().enumerate() {
        let path = |field: &str| format!("subjects[{at}].{field}");
        let text = |field: &str| subject[field].as_str().unwrap_or_default();
        if text("name").is_empty() {
            errors.push(FieldError::required(path("name"), "say who it is"));
        }
        let (group, detail) = match text("kind") {
            "ServiceAccount" => ("", "a service account is in no API group"),
            "User" | "Group" => (RBAC.group, "leave it out, or name the group of RBAC"),
            other => {
                let kinds = ["Group", "ServiceAccount", "User"];
                errors.push(FieldError::not_supported(path("kind"), other, &kinds));
                continue;
            }
        };
        if !text("apiGroup").is_empty() && text("apiGroup") != group {
            errors.push(FieldError::invalid(path("apiGroup"), quoted(text("apiGroup")), detail));
        }
        if everywhere && text("kind") == "ServiceAccount" && text("namespace").is_empty() {
            errors.push(FieldError::required(path("namespace"), "a service account is in a namespace"));
        }
    }
    errors
}
