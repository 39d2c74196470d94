//! From a Rust type to a clean, self-contained schema.
//!
//! What `schemars` emits is brought into the shape that Kubernetes clients expect: no references, no titles, no
//! `null` among the types, enumerations as `enum`, and `metadata` left to the machinery.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema of a type, self-contained.
///
/// An object's `metadata` is `{"type": "object"}` here, as in custom resource definitions: [`super::Schema`] and the
/// OpenAPI documents put ObjectMeta there. Defaults that are empty are left out.
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.meta_schema = None);
    let mut root = settings.into_generator().into_root_schema_for::<T>().to_value();
    let definitions = match root.as_object_mut().and_then(|root| root.remove("$defs")) {
        Some(Value::Object(definitions)) => definitions,
        _ => Map::new(),
    };
    let mut schema = Cleaner { definitions, open: Vec::new() }.clean(root);
    // kube's derive writes no more than the name of the spec's type: what the spec says is what the kind is.
    if schema["description"].as_str().is_some_and(|text| text.starts_with("Auto-generated derived type")) {
        schema["description"] = schema["properties"]["spec"]["description"].clone();
    }
    schema
}

/// How the meaning of an enumeration's values begins.
const VALUES: &str = "Possible enum values:";

struct Cleaner {
    definitions: Map<String, Value>,
    /// The references being resolved: meeting one again means that the type is recursive.
    open: Vec<String>,
}

impl Cleaner {
    fn clean(&mut self, schema: Value) -> Value {
        let Value::Object(mut fields) = schema else {
            return json!({"x-kubernetes-preserve-unknown-fields": true});
        };
        for noise in ["$schema", "title", "$comment", "examples"] {
            fields.remove(noise);
        }
        if let Some(Value::String(reference)) = fields.remove("$ref") {
            let target = self.resolve(&reference);
            return over(target, fields);
        }
        strip_null_type(&mut fields);
        if let Some(value) = fields.remove("const") {
            fields.insert("enum".to_owned(), json!([value]));
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            if let Some(single) = self.branches(keyword, &mut fields) {
                return over(single, fields);
            }
        }
        self.children(&mut fields);
        if fields.get("default").is_some_and(is_noise) {
            fields.remove("default");
        }
        Value::Object(fields)
    }

    fn resolve(&mut self, reference: &str) -> Value {
        let name = reference.rsplit('/').next().unwrap_or_default().replace("~1", "/").replace("~0", "~");
        if name.ends_with("meta.v1.ObjectMeta") {
            return json!({"type": "object"});
        }
        if self.open.contains(&name) {
            return json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        }
        let definition = self.definitions.get(&name).cloned().unwrap_or(Value::Bool(true));
        let quantity = name.ends_with("api.resource.Quantity");
        self.open.push(name);
        let mut target = self.clean(definition);
        self.open.pop();
        if let (true, Some(fields)) = (quantity, target.as_object_mut()) {
            fields.insert("format".to_owned(), "quantity".into());
        }
        target
    }

    fn children(&mut self, fields: &mut Map<String, Value>) {
        let required: BTreeSet<String> = fields
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        if let Some(Value::Object(properties)) = fields.get_mut("properties") {
            for (name, property) in properties.iter_mut() {
                *property = self.clean(property.take());
                // An optional field that is null is absent: nothing need be said of it.
                if let (false, Some(property)) = (required.contains(name), property.as_object_mut()) {
                    property.remove("nullable");
                }
            }
        }
        for keyword in ["items", "additionalProperties"] {
            match fields.get_mut(keyword) {
                Some(Value::Bool(false)) => {
                    fields.remove(keyword);
                }
                Some(child) => *child = self.clean(child.take()),
                None => {}
            }
        }
        let says_fields = ["properties", "additionalProperties", "allOf", "anyOf", "oneOf"];
        let plain = fields.get("type").is_some_and(|name| name == "object");
        let anything = !fields.keys().any(|keyword| {
            matches!(keyword.as_str(), "type" | "enum" | "x-kubernetes-int-or-string" | "allOf" | "anyOf" | "oneOf")
        });
        if anything || plain && !says_fields.iter().any(|keyword| fields.contains_key(*keyword)) {
            fields.insert("x-kubernetes-preserve-unknown-fields".to_owned(), Value::Bool(true));
        }
    }

    /// Cleans the branches of a combination; gives the one schema that it comes down to, if it does.
    fn branches(&mut self, keyword: &str, fields: &mut Map<String, Value>) -> Option<Value> {
        let Value::Array(branches) = fields.remove(keyword)? else { return None };
        let count = branches.len();
        let is_null = |branch: &Value| branch["type"] == "null" || branch["const"].is_null() && has(branch, "const");
        let mut branches: Vec<Value> =
            branches.into_iter().filter(|branch| !is_null(branch)).map(|branch| self.clean(branch)).collect();
        if branches.len() < count {
            fields.insert("nullable".to_owned(), Value::Bool(true));
        }
        if branches.len() == 1 {
            return branches.pop();
        }
        if let Some(words) = (keyword != "allOf").then(|| one_enum(&branches)).flatten() {
            let described = describe(fields.remove("description"), &branches);
            if let Some(description) = described {
                fields.insert("description".to_owned(), description);
            }
            return Some(words);
        }
        fields.insert(keyword.to_owned(), Value::Array(branches));
        None
    }
}

/// `target` with these fields over it.
fn over(mut target: Value, mut fields: Map<String, Value>) -> Value {
    if fields.get("default").is_some_and(is_noise) {
        fields.remove("default");
    }
    if let Some(target) = target.as_object_mut() {
        // What a field says takes the place of what its type says, but the meaning of the values stays.
        let values = target
            .get("description")
            .and_then(Value::as_str)
            .and_then(|text| text.find(VALUES).map(|at| text[at..].to_owned()));
        if let (Some(values), Some(Value::String(own))) = (values, fields.get_mut("description")) {
            own.push_str("\n\n");
            own.push_str(&values);
        }
        target.append(&mut fields);
        // The default of a type's own definition gives way to an absent one only if it is noise.
        if target.get("default").is_some_and(is_noise) {
            target.remove("default");
        }
    }
    target
}

/// `"type": ["string", "null"]` becomes a nullable string; an enumeration loses its null likewise.
fn strip_null_type(fields: &mut Map<String, Value>) {
    let mut nullable = false;
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        let count = types.len();
        types.retain(|name| name != "null");
        nullable |= types.len() < count;
        if types.len() == 1 {
            let only = types.remove(0);
            fields.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        let count = values.len();
        values.retain(|value| !value.is_null());
        nullable |= values.len() < count;
    }
    if nullable {
        fields.insert("nullable".to_owned(), Value::Bool(true));
    }
}

/// The one string enumeration that branches amount to, when each is one.
fn one_enum(branches: &[Value]) -> Option<Value> {
    let mut words = Vec::new();
    for branch in branches {
        let values = branch["enum"].as_array().filter(|_| branch["type"] == "string")?;
        words.extend(values.iter().cloned());
    }
    Some(json!({"type": "string", "enum": words}))
}

/// A description with the meaning of each value, as upstream writes it.
fn describe(description: Option<Value>, branches: &[Value]) -> Option<Value> {
    let meanings: Vec<String> = branches
        .iter()
        .filter_map(|branch| Some(format!(" - `{}` {}", branch["enum"][0], branch["description"].as_str()?)))
        .collect();
    let text = description.as_ref().and_then(Value::as_str).unwrap_or_default();
    if meanings.is_empty() {
        return description;
    }
    let gap = if text.is_empty() { "" } else { "\n\n" };
    Some(format!("{text}{gap}{VALUES}\n{}", meanings.join("\n")).into())
}

/// A default that says no more than its absence.
fn is_noise(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_noise),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn has(schema: &Value, keyword: &str) -> bool {
    schema.get(keyword).is_some()
}
