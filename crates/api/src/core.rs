//! The core kinds that Mainstay's own kinds need, as Kubernetes defines them.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, ResourceQuota, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Value, json};

use crate::common::{label_fault, quoted};
use crate::field::FieldError;
use crate::kind::{Column, Kind, Rules, Unknown};
use crate::schema;

/// A core kind without columns, selectable fields, status or rules.
const PLAIN: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    core: true,
    columns: &[],
    selectable: &[],
    schema: || Value::Null,
    unknown: Unknown::AsAsked,
    rules: Rules::NONE,
};

const RBAC: Kind = Kind { group: "rbac.authorization.k8s.io", ..PLAIN };

const fn column(name: &'static str, path: &'static str) -> Column {
    Column { name, kind: "string", path, priority: 0, description: "" }
}

/// The rows of these kinds in the registry.
pub fn kinds() -> Vec<Kind> {
    vec![namespace(), secret(), config_map(), service_account(), event(), resource_quota(), lease()]
        .into_iter()
        .chain(rbac())
        .collect()
}

fn namespace() -> Kind {
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        status: true,
        columns: const { &[column("Status", "status.phase")] },
        selectable: &["status.phase"],
        schema: schema::of::<Namespace>,
        rules: Rules { on_create: active, check: check_namespace, ..Rules::NONE },
        ..PLAIN
    }
}

fn active(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".to_owned(), json!({ "phase": "Active" }));
    }
}

fn check_namespace(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let fault = label_fault(name).filter(|_| !name.is_empty());
    fault.map(|fault| FieldError::invalid("metadata.name", quoted(name), fault)).into_iter().collect()
}

fn secret() -> Kind {
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        columns: const { &[column("Type", "type"), Column { kind: "integer", ..column("Data", "data#") }] },
        selectable: &["type"],
        schema: schema::of::<Secret>,
        rules: Rules { on_create: opaque, check: check_data, ..Rules::NONE },
        ..PLAIN
    }
}

fn opaque(object: &mut Value) {
    if let Some(fields) = object.as_object_mut()
        && fields.get("type").and_then(Value::as_str).is_none_or(str::is_empty)
    {
        fields.insert("type".to_owned(), json!("Opaque"));
    }
}

fn config_map() -> Kind {
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        columns: const { &[Column { kind: "integer", ..column("Data", "data#") }] },
        schema: schema::of::<ConfigMap>,
        rules: Rules { check: check_data, ..Rules::NONE },
        ..PLAIN
    }
}

/// Keys become file names; an immutable object stays as it is.
fn check_data(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["data", "binaryData", "stringData"] {
        for key in new[field].as_object().into_iter().flat_map(serde_json::Map::keys) {
            let ok = !key.is_empty()
                && key.len() <= 253
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && !key.starts_with("..")
                && key != ".";
            if !ok {
                let detail =
                    "a valid key is at most 253 letters, digits, '-', '_' and '.', and does not start with '..'";
                errors.push(FieldError::invalid(format!("{field}[{key}]"), quoted(key), detail));
            }
        }
    }
    if let Some(old) = old.filter(|old| old["immutable"] == true) {
        let changed = ["data", "binaryData", "immutable"].iter().any(|field| old[*field] != new[*field]);
        errors.extend(changed.then(|| FieldError::forbidden("data", "field is immutable when `immutable` is set")));
    }
    errors
}

fn service_account() -> Kind {
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        schema: schema::of::<ServiceAccount>,
        ..PLAIN
    }
}

fn event() -> Kind {
    Kind {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        columns: const {
            &[
                Column { kind: "date", ..column("Last Seen", "lastTimestamp") },
                column("Type", "type"),
                column("Reason", "reason"),
                column("Object", "involvedObject.name"),
                column("Message", "message"),
            ]
        },
        selectable: &[
            "involvedObject.fieldPath",
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "reason",
            "type",
        ],
        schema: schema::of::<Event>,
        ..PLAIN
    }
}

fn resource_quota() -> Kind {
    Kind {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: &["quota"],
        status: true,
        schema: schema::of::<ResourceQuota>,
        rules: Rules { check: check_quota, ..Rules::NONE },
        ..PLAIN
    }
}

/// What a quota may limit; anything else would look enforced without being so.
pub const QUOTA_RESOURCES: [&str; 7] = [
    "count/sessions.mainstay.dev",
    "pods",
    "limits.cpu",
    "limits.memory",
    "count/configmaps",
    "count/secrets",
    "count/pods",
];

fn check_quota(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, text) in new["spec"]["hard"].as_object().into_iter().flatten() {
        let path = format!("spec.hard[{name}]");
        if !QUOTA_RESOURCES.contains(&name.as_str()) {
            let detail = format!("not enforced here; supported: {}", QUOTA_RESOURCES.join(", "));
            errors.push(FieldError::invalid(path, quoted(name), detail));
        } else if let Err(bad) = crate::quantity::millis(&text.as_str().map_or_else(|| text.to_string(), str::to_owned))
        {
            errors.push(FieldError::invalid(path, text, bad.to_string()));
        }
    }
    for field in ["scopes", "scopeSelector"] {
        if !new["spec"][field].is_null() {
            errors.push(FieldError::forbidden(format!("spec.{field}"), "scopes are not supported"));
        }
    }
    errors
}

fn lease() -> Kind {
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        columns: const { &[column("Holder", "spec.holderIdentity")] },
        schema: schema::of::<Lease>,
        ..PLAIN
    }
}

fn rbac() -> [Kind; 4] {
    let role = Kind { kind: "Role", plural: "roles", singular: "role", schema: schema::of::<Role>, ..RBAC };
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
            ..binding.clone()
        },
        role,
        binding,
    ]
}

fn check_cluster_role(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let aggregated = !new["aggregationRule"].is_null();
    let refused = || FieldError::forbidden("aggregationRule", "aggregation is not supported; list the rules");
    aggregated.then(refused).into_iter().collect()
}

/// A binding's role cannot be changed: delete and create it anew, so that nobody's rights change under them.
fn check_binding(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let changed = old.is_some_and(|old| old["roleRef"] != new["roleRef"]);
    errors.extend(changed.then(|| FieldError::invalid("roleRef", &new["roleRef"], "cannot change roleRef")));
    if new["roleRef"]["name"].as_str().is_none_or(str::is_empty) {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for (at, subject) in new["subjects"].as_array().into_iter().flatten().enumerate() {
        let kind = subject["kind"].as_str().unwrap_or_default();
        if !["User", "Group", "ServiceAccount"].contains(&kind) {
            let detail = "must be User, Group or ServiceAccount";
            errors.push(FieldError::invalid(format!("subjects[{at}].kind"), quoted(kind), detail));
        }
    }
    errors
}
