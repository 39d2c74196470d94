//! `Secret` and `ConfigMap`: named values, which become files.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};

use super::{PLAIN, column};
use crate::common::quoted;
use crate::field::FieldError;
use crate::kind::{Column, Kind, Rules};
use crate::schema;

pub(super) fn secret() -> Kind {
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        columns: const { &[column("Type", "type"), Column { kind: "integer", ..column("Data", "data#") }] },
        selectable: &["type"],
        schema: schema::of::<Secret>,
        rules: Rules { on_create: opaque, check: check_secret, ..Rules::NONE },
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

pub(super) fn config_map() -> Kind {
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

/// Types whose keys their readers rely on.
const TYPES: [(&str, &[&str]); 4] = [
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
];
const ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";

fn check_secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = check_data(new, old);
    let kind = new["type"].as_str().unwrap_or_default();
    if old.is_some_and(|old| old["type"] != new["type"]) {
        errors.push(FieldError::invalid("type", quoted(kind), "field is immutable"));
    }
    if kind == ACCOUNT_TOKEN {
        let detail = "tokens are not kept in Secrets here: ask for one through serviceaccounts/NAME/token";
        errors.push(FieldError::invalid("type", quoted(kind), detail));
    }
    let required = TYPES.iter().find(|(known, _)| *known == kind).map_or(&[][..], |(_, keys)| keys);
    for key in required {
        if new["data"][*key].is_null() {
            errors.push(FieldError::required(format!("data[{key}]"), format!("a Secret of type {kind} has it")));
        }
    }
    errors
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
    for key in new["binaryData"].as_object().into_iter().flat_map(serde_json::Map::keys) {
        if new["data"].get(key).is_some() {
            errors.push(FieldError::duplicate(format!("binaryData[{key}]"), key));
        }
    }
    if let Some(old) = old.filter(|old| old["immutable"] == true) {
        let changed = ["data", "binaryData", "immutable"].iter().any(|field| old[*field] != new[*field]);
        errors.extend(changed.then(|| FieldError::forbidden("data", "field is immutable when `immutable` is set")));
    }
    errors
}
