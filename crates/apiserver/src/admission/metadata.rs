//! What metadata may say.

use mainstay_api::common::{name_fault, quoted};
use mainstay_api::{Fault, FieldError, Kind};
use serde_json::Value;

use crate::selector::{label_key_fault, label_value_fault};

/// Bytes of all annotations of an object together, as upstream limits them.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// Finalizers of one object.
const MAX_FINALIZERS: usize = 64;
/// Owners of one object.
const MAX_OWNERS: usize = 256;

/// Adds what is wrong with an object's metadata; of a field that the schema has refused already nothing more is said.
pub(crate) fn check(kind: &Kind, object: &Value, errors: &mut Vec<FieldError>) {
    let refused: Vec<String> = errors.iter().map(|error| error.path.clone()).collect();
    let known = |path: &str| {
        let inside =
            |refused: &str| refused.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        refused.iter().any(|refused| inside(refused))
    };
    errors.extend(all(kind, object).into_iter().filter(|error| !known(&error.path)));
}

fn all(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(metadata) = object["metadata"].as_object() else {
        return vec![FieldError::required("metadata", "")];
    };
    check_name(kind, metadata.get("name").and_then(Value::as_str).unwrap_or(""), &mut errors);
    if let Some(labels) = metadata.get("labels") {
        check_labels(labels, &mut errors);
    }
    if let Some(annotations) = metadata.get("annotations") {
        check_annotations(annotations, &mut errors);
    }
    if let Some(finalizers) = metadata.get("finalizers") {
        check_finalizers(finalizers, &mut errors);
    }
    if let Some(owners) = metadata.get("ownerReferences") {
        check_owners(owners, &mut errors);
    }
    errors
}

fn check_name(kind: &Kind, name: &str, errors: &mut Vec<FieldError>) {
    let path = "metadata.name";
    if name.is_empty() {
        errors.push(FieldError::required(path, "name or generateName is required"));
        return;
    }
    // RBAC names only have to be one path segment: `system:node` is one.
    let fault = if kind.group == "rbac.authorization.k8s.io" { segment_fault(name) } else { name_fault(name) };
    if let Some(fault) = fault {
        errors.push(FieldError::invalid(path, quoted(name), fault));
    } else if kind.plural == "namespaces" && (name.len() > 63 || name.contains('.')) {
        errors.push(FieldError::invalid(path, quoted(name), "must be a label: at most 63 of a-z, 0-9 and '-'"));
    }
}

fn segment_fault(name: &str) -> Option<&'static str> {
    let wrong = matches!(name, "." | "..")
        || name.len() > 253
        || name.bytes().any(|byte| matches!(byte, b'/' | b'%') || byte.is_ascii_control());
    wrong.then_some("must be one path segment of at most 253 characters, without '/', '%' or control characters")
}

fn check_labels(labels: &Value, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if let Some(fault) = label_key_fault(key) {
            errors.push(FieldError::invalid("metadata.labels", quoted(key), fault));
        }
        let Some(text) = value.as_str() else {
            errors.push(FieldError::invalid("metadata.labels", value, "must be a string"));
            continue;
        };
        if let Some(fault) = label_value_fault(text) {
            errors.push(FieldError::invalid("metadata.labels", quoted(text), fault));
        }
    }
}

fn check_annotations(annotations: &Value, errors: &mut Vec<FieldError>) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        if let Some(fault) = label_key_fault(&key.to_ascii_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", quoted(key), fault));
        }
        let Some(text) = value.as_str() else {
            errors.push(FieldError::invalid("metadata.annotations", value, "must be a string"));
            continue;
        };
        size += key.len() + text.len();
    }
    if size > MAX_ANNOTATIONS {
        let detail = format!("may not be more than {MAX_ANNOTATIONS} bytes");
        errors.push(FieldError::new("metadata.annotations", Fault::TooLong, detail));
    }
}

fn check_finalizers(finalizers: &Value, errors: &mut Vec<FieldError>) {
    let list = finalizers.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.len() > MAX_FINALIZERS {
        let detail = format!("must have at most {MAX_FINALIZERS} items");
        errors.push(FieldError::new("metadata.finalizers", Fault::TooMany, detail));
    }
    for (at, name) in list.iter().enumerate() {
        let path = format!("metadata.finalizers[{at}]");
        let text = name.as_str().unwrap_or("");
        if let Some(fault) = label_key_fault(text) {
            errors.push(FieldError::invalid(&path, quoted(text), fault));
        } else if list[..at].contains(name) {
            errors.push(FieldError { path, fault: Fault::Duplicate, value: Some(quoted(text)), detail: String::new() });
        }
    }
}

fn check_owners(owners: &Value, errors: &mut Vec<FieldError>) {
    let list = owners.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.len() > MAX_OWNERS {
        let detail = format!("must have at most {MAX_OWNERS} items");
        errors.push(FieldError::new("metadata.ownerReferences", Fault::TooMany, detail));
    }
    for (at, owner) in list.iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                errors
                    .push(FieldError::required(format!("metadata.ownerReferences[{at}].{field}"), "must not be empty"));
            }
        }
    }
    if list.iter().filter(|owner| owner["controller"] == true).count() > 1 {
        let detail = "only one reference can have controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", "[...]", detail));
    }
}

#[cfg(test)]
mod tests;
