//! The core kinds that Mainstay's own kinds need, as Kubernetes defines them.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, ResourceQuota, ServiceAccount};
use serde_json::{Value, json};

use crate::common::{label_fault, quoted};
use crate::field::FieldError;
use crate::kind::{Column, Kind, Rules, Unknown};
use crate::schema;

mod data;
mod rbac;

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

const fn column(name: &'static str, path: &'static str) -> Column {
    Column { name, kind: "string", path, priority: 0, description: "" }
}

/// The rows of these kinds in the registry.
pub fn kinds() -> Vec<Kind> {
    vec![namespace(), data::secret(), data::config_map(), service_account(), event(), resource_quota(), lease()]
        .into_iter()
        .chain(rbac::kinds())
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

fn service_account() -> Kind {
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        schema: schema::of::<ServiceAccount>,
        rules: Rules { check: check_service_account, ..Rules::NONE },
        ..PLAIN
    }
}

/// Nothing is mounted into Pods for their service account, and nothing is pulled.
fn check_service_account(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["secrets", "imagePullSecrets"] {
        if new[field].as_array().is_some_and(|list| !list.is_empty()) {
            let detail = "not supported here: grant a session the credentials that it needs";
            errors.push(FieldError::forbidden(field, detail));
        }
    }
    if new["automountServiceAccountToken"] == true {
        let detail = "tokens are not mounted: ask for one through the subresource token";
        errors.push(FieldError::forbidden("automountServiceAccountToken", detail));
    }
    errors
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
        rules: Rules { check: check_event, ..Rules::NONE },
        ..PLAIN
    }
}

/// An event is beside its object, or, about what is in no namespace, in `default`: what reads one namespace sees no
/// other's.
fn check_event(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let own = new["metadata"]["namespace"].as_str().unwrap_or_default();
    let about = new["involvedObject"]["namespace"].as_str().unwrap_or_default();
    let beside = if about.is_empty() { "default" } else { about };
    if own == beside {
        return Vec::new();
    }
    let detail = format!("does not match the event's namespace {}", quoted(own));
    vec![FieldError::invalid("involvedObject.namespace", quoted(about), detail)]
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
        rules: Rules { check: check_lease, ..Rules::NONE },
        ..PLAIN
    }
}

fn check_lease(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // Each is a term, which goes with what is done under the lease: an older holder must never look like the newest.
    let transitions = |lease: &Value| lease["spec"]["leaseTransitions"].as_i64().unwrap_or(0);
    if old.is_some_and(|old| transitions(new) < transitions(old)) {
        let detail = "must not fall";
        errors.push(FieldError::invalid("spec.leaseTransitions", &new["spec"]["leaseTransitions"], detail));
    }
    for (field, least, detail) in [
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ] {
        if new["spec"][field].as_i64().is_some_and(|number| number < least) {
            errors.push(FieldError::invalid(format!("spec.{field}"), &new["spec"][field], detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
