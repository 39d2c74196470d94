//! The two walks that change an object: pruning and defaulting.

use serde_json::Value;

use super::MAX_ERRORS;
use super::compile::{Node, Types};
use super::path::Path;

/// Drops unknown fields and nulls; `unknown` gets the paths of the former.
pub(super) fn prune(node: &Node, value: &mut Value, path: &Path<'_>, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) if node.types.allow(Types::OBJECT) => map.retain(|name, value| match node.child(name) {
            Some((child, declared)) => {
                if declared && value.is_null() && !child.nullable {
                    return false;
                }
                if matches!(value, Value::Object(_) | Value::Array(_)) {
                    prune(child, value, &path.field(name), unknown);
                }
                true
            }
            None if node.open => true,
            None => {
                if unknown.len() < MAX_ERRORS {
                    unknown.push(path.field(name).to_string());
                }
                false
            }
        }),
        Value::Array(items) if node.types.allow(Types::ARRAY) => {
            let Some(schema) = node.item() else { return };
            for (at, item) in items.iter_mut().enumerate() {
                prune(schema, item, &path.index(at), unknown);
            }
        }
        _ => {}
    }
}

/// Fills in defaults, also below defaults.
pub(super) fn default(node: &Node, value: &mut Value) {
    if !node.defaults_below {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, child) in node.properties.iter().filter(|(_, child)| child.has_defaults()) {
                match map.get_mut(&**name) {
                    Some(value) if !value.is_null() || child.nullable => default(child, value),
                    Some(_) | None => {
                        if let Some(mut fresh) = child.default.clone() {
                            default(child, &mut fresh);
                            map.insert(String::from(&**name), fresh);
                        }
                    }
                }
            }
            if let Some(child) = &node.additional {
                let declared = |name: &str| node.property(name).is_some();
                map.iter_mut().filter(|(name, _)| !declared(name)).for_each(|(_, value)| default(child, value));
            }
        }
        Value::Array(items) => {
            if let Some(child) = &node.items {
                for item in items {
                    default(child, item);
                }
            }
        }
        _ => {}
    }
}
