//! Label and field selectors, and the part of an object that they look at.
//!
//! Selectors are parsed once per request, within bounds, and match against the [`Meta`] that the store keeps beside an
//! object's bytes: matching neither parses JSON nor allocates. An empty selector matches everything. A selectable
//! field that an object does not have counts as empty, as upstream has it.

mod field;
mod label;
mod syntax;

use std::sync::Arc;

use mainstay_api::Kind;
use mainstay_store::{Key, Meta, Scope};
use serde_json::Value;

pub use field::FieldSelector;
pub use label::LabelSelector;
pub use syntax::{label_key_fault, label_value_fault};

/// No selector text is longer than this.
const MAX_LENGTH: usize = 16 * 1024;
/// No selector has more requirements, and no set of values more members.
const MAX_TERMS: usize = 256;

fn bounded(text: &str) -> Result<(), String> {
    if text.len() > MAX_LENGTH {
        return Err(format!("the selector is {} bytes long; at most {MAX_LENGTH} are allowed", text.len()));
    }
    Ok(())
}

/// A label selector and a field selector: what a list, a watch or a collection's deletion is narrowed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
}

impl Selector {
    /// Parses the query parameters `labelSelector` and `fieldSelector` for a kind.
    ///
    /// # Errors
    /// The message of a 400 BadRequest.
    pub fn parse(labels: Option<&str>, fields: Option<&str>, kind: &Kind) -> Result<Self, String> {
        Ok(Self {
            labels: LabelSelector::parse(labels.unwrap_or(""))?,
            fields: FieldSelector::parse(fields.unwrap_or(""), kind)?,
        })
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether this object matches.
    pub fn matches(&self, key: &Key, meta: &Meta) -> bool {
        self.labels.matches(meta) && self.fields.matches(key, meta)
    }

    /// Narrows a scope to the name and namespace that the field selector asks for; `false` when the two contradict
    /// each other, so that nothing can match.
    ///
    /// The store may then look at one object instead of a whole resource. What the scope cannot say is still left to
    /// [`Selector::matches`].
    pub fn narrow(&self, scope: &mut Scope) -> bool {
        if let Some(namespace) = self.fields.exact_namespace() {
            match &scope.namespace {
                Some(known) if **known != *namespace => return false,
                Some(_) => {}
                None => scope.namespace = Some(Arc::from(namespace)),
            }
        }
        if let (Some(name), true) = (self.fields.exact_name(), scope.namespace.is_some()) {
            match &scope.name {
                Some(known) if **known != *name => return false,
                Some(_) => {}
                None => scope.name = Some(Arc::from(name)),
            }
        }
        true
    }
}

/// What the store keeps beside an object of this kind: uid, labels, selectable fields and owners.
pub fn meta_of(kind: &Kind, object: &Value) -> Meta {
    let metadata = &object["metadata"];
    let mut meta = Meta { uid: Arc::from(metadata["uid"].as_str().unwrap_or("")), ..Meta::default() };
    if let Some(labels) = metadata["labels"].as_object() {
        meta.labels = labels
            .iter()
            .filter_map(|(key, value)| value.as_str().map(|value| (Arc::from(key.as_str()), Arc::from(value))))
            .collect();
        meta.labels.sort_unstable();
    }
    if let Some(owners) = metadata["ownerReferences"].as_array() {
        meta.owners = owners.iter().filter_map(|owner| owner["uid"].as_str().map(Arc::from)).collect();
    }
    meta.fields = kind
        .selectable
        .iter()
        .filter_map(|path| field_text(object, path).map(|text| (Arc::from(*path), text)))
        .collect();
    meta.fields.sort_unstable();
    meta
}

/// The value at a dotted path as a selector compares it; `None` when there is none.
fn field_text(object: &Value, path: &str) -> Option<Arc<str>> {
    let value = path.split('.').try_fold(object, |value, part| value.get(part))?;
    match value {
        Value::String(text) => Some(Arc::from(text.as_str())),
        Value::Bool(_) | Value::Number(_) => Some(Arc::from(value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests;
