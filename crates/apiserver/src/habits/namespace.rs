//! `Namespace`: `spec.finalizers` holds it until its controller has emptied it. Only `/finalize` changes them.

use mainstay_api::FieldError;
use serde_json::{Value, json};

/// In every Namespace until the namespace controller has emptied it, as upstream has it.
const FINALIZER: &str = "kubernetes";

/// Gives a new one its finalizer, and keeps those of one that is there; others that are asked for are refused.
pub(crate) fn complete(new: &mut Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let spec = old.map_or_else(|| json!({"finalizers": [FINALIZER]}), |old| old["spec"].clone());
    let asked = &new["spec"]["finalizers"];
    let unsaid = asked.is_null() || (old.is_none() && asked.as_array().is_some_and(Vec::is_empty));
    if !unsaid && *asked != spec["finalizers"] {
        let held = &spec["finalizers"];
        let why =
            format!("a namespace is held by {held} until it is empty; only its subresource finalize changes that");
        errors.push(FieldError::forbidden("spec.finalizers", why));
    }
    new["spec"] = spec;
}
