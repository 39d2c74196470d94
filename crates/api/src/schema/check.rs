//! Validation, with the error texts that Kubernetes clients know.

use std::collections::HashSet;

use serde_json::{Map, Number, Value};

use super::compile::{Bound, Limits, Node, Types};
use super::path::Path;
use crate::field::{Fault, FieldError};

/// Longer values are cut in errors.
const SHOWN: usize = 256;

/// Errors, up to a bound.
#[derive(Debug)]
pub(super) struct Errors {
    list: Vec<FieldError>,
    limit: usize,
}

impl Errors {
    pub(super) const fn new(limit: usize) -> Self {
        Self { list: Vec::new(), limit }
    }

    pub(super) fn into_vec(self) -> Vec<FieldError> {
        self.list
    }

    fn is_full(&self) -> bool {
        self.list.len() >= self.limit
    }

    fn add(&mut self, path: &Path<'_>, fault: Fault, value: Option<String>, detail: String) {
        if !self.is_full() {
            self.list.push(FieldError { path: path.to_string(), fault, value, detail });
        }
    }

    /// `PATH in body RULE`.
    fn body(&mut self, node: &Node, path: &Path<'_>, value: &Value, rule: &str) {
        self.add(path, Fault::Invalid, shown(node, value), format!("{path} in body {rule}"));
    }
}

/// Checks a value against a place of the schema.
pub(super) fn check(node: &Node, value: &Value, path: &Path<'_>, errors: &mut Errors) {
    if errors.is_full() || (value.is_null() && node.nullable) {
        return;
    }
    if !type_fits(node.types, value) {
        let actual = type_name(value);
        let detail = format!("{path} in body must be of type {}: \"{actual}\"", node.types.names());
        errors.add(path, Fault::TypeInvalid, Some(format!("\"{actual}\"")), detail);
        return;
    }
    if let Some(limits) = &node.limits {
        check_limits(node, limits, value, path, errors);
    }
    match value {
        Value::Object(map) => check_object(node, map, path, errors),
        Value::Array(items) => {
            if let Some(schema) = &node.items {
                for (at, item) in items.iter().enumerate() {
                    check(schema, item, &path.index(at), errors);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn check_object(node: &Node, map: &Map<String, Value>, path: &Path<'_>, errors: &mut Errors) {
    for name in node.required.iter().filter(|name| !map.contains_key(&***name)) {
        errors.add(&path.field(name), Fault::Required, None, String::new());
    }
    for (name, value) in map {
        if let Some(child) = node.property(name).or(node.additional.as_deref()) {
            check(child, value, &path.field(name), errors);
        }
    }
}

fn check_limits(node: &Node, limits: &Limits, value: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(allowed) = &limits.values
        && !allowed.contains(value)
    {
        let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        let detail = format!("supported values: {}", allowed.join(", "));
        errors.add(path, Fault::NotSupported, shown(node, value), detail);
    }
    if let Some(format) = limits.format
        && !format.fits(value)
    {
        let actual = shown(node, value).map(|value| format!(": {value}")).unwrap_or_default();
        errors.body(node, path, value, &format!("must be of type {}{actual}", format.name()));
    }
    match value {
        Value::String(text) => check_string(node, limits, value, text, path, errors),
        Value::Number(number) => check_number(node, limits, value, number, path, errors),
        Value::Array(items) => check_items(node, limits, value, items, path, errors),
        Value::Object(map) => check_count(node, limits, value, map.len(), path, errors),
        Value::Null | Value::Bool(_) => {}
    }
    check_branches(limits, value, path, errors);
}

fn check_string(node: &Node, limits: &Limits, value: &Value, text: &str, path: &Path<'_>, errors: &mut Errors) {
    // A text has at most as many characters as bytes, and at least a quarter of them: count only when it matters.
    if let Some(most) = limits.max_length
        && as_count(text.len()) > most
        && as_count(text.chars().count()) > most
    {
        errors.add(path, Fault::TooLong, None, format!("may not be more than {most} characters"));
    }
    if let Some(least) = limits.min_length
        && as_count(text.len()) < least.saturating_mul(4)
        && as_count(text.chars().count()) < least
    {
        errors.body(node, path, value, &format!("should be at least {least} chars long"));
    }
    if let Some(pattern) = &limits.pattern
        && !pattern.is_match(text)
    {
        errors.body(node, path, value, &format!("should match '{}'", pattern.as_str()));
    }
}

fn check_number(node: &Node, limits: &Limits, value: &Value, number: &Number, path: &Path<'_>, errors: &mut Errors) {
    let Some(size) = number.as_f64() else { return };
    let bound = |bound: Bound| bound.whole.map_or_else(|| bound.at.to_string(), |whole| whole.to_string());
    if let Some(least) = limits.minimum
        && (size < least.at || least.exclusive && size <= least.at)
    {
        let words = if least.exclusive { "greater than" } else { "greater than or equal to" };
        errors.body(node, path, value, &format!("should be {words} {}", bound(least)));
    }
    if let Some(most) = limits.maximum
        && (size > most.at || most.exclusive && size >= most.at)
    {
        let words = if most.exclusive { "less than" } else { "less than or equal to" };
        errors.body(node, path, value, &format!("should be {words} {}", bound(most)));
    }
    if let Some(step) = limits.multiple_of
        && (size / step).fract() != 0.0
    {
        errors.body(node, path, value, &format!("should be a multiple of {step}"));
    }
}

fn check_items(node: &Node, limits: &Limits, value: &Value, items: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let count = as_count(items.len());
    if let Some(most) = limits.max_items.filter(|most| count > *most) {
        errors.add(path, Fault::TooMany, Some(count.to_string()), format!("must have at most {most} items"));
    }
    if let Some(least) = limits.min_items.filter(|least| count < *least) {
        errors.body(node, path, value, &format!("should have at least {least} items"));
    }
    if limits.unique_items {
        let mut seen = HashSet::new();
        for (at, item) in items.iter().enumerate() {
            if !seen.insert(item.to_string()) {
                errors.add(&path.index(at), Fault::Duplicate, shown(node, item), String::new());
            }
        }
    }
}

fn check_count(node: &Node, limits: &Limits, value: &Value, count: usize, path: &Path<'_>, errors: &mut Errors) {
    let count = as_count(count);
    if let Some(most) = limits.max_properties.filter(|most| count > *most) {
        errors.add(path, Fault::TooMany, Some(count.to_string()), format!("must have at most {most} items"));
    }
    if let Some(least) = limits.min_properties.filter(|least| count < *least) {
        errors.body(node, path, value, &format!("should have at least {least} properties"));
    }
}

fn check_branches(limits: &Limits, value: &Value, path: &Path<'_>, errors: &mut Errors) {
    for branch in &limits.all_of {
        check(branch, value, path, errors);
    }
    let mut refuse = |rule: &str| {
        errors.add(path, Fault::Invalid, Some("\"\"".to_owned()), format!("\"{path}\" must validate {rule}"));
    };
    if !limits.any_of.is_empty() && !limits.any_of.iter().any(|branch| fits(branch, value, path)) {
        refuse("at least one schema (anyOf)");
        explain(&limits.any_of, value, path, errors);
    } else if !limits.one_of.is_empty() {
        match limits.one_of.iter().filter(|branch| fits(branch, value, path)).count() {
            1 => {}
            0 => {
                refuse("one and only one schema (oneOf). Found none valid");
                explain(&limits.one_of, value, path, errors);
            }
            some => refuse(&format!("one and only one schema (oneOf). Found {some} valid alternatives")),
        }
    }
}

/// Adds what is wrong with the branch that fits best.
fn explain(branches: &[Node], value: &Value, path: &Path<'_>, errors: &mut Errors) {
    let faults = |branch: &Node| {
        let mut faults = Errors::new(8);
        check(branch, value, path, &mut faults);
        faults.list
    };
    let best = branches.iter().map(faults).min_by_key(Vec::len).unwrap_or_default();
    let room = errors.limit.saturating_sub(errors.list.len());
    errors.list.extend(best.into_iter().take(room));
}

fn fits(node: &Node, value: &Value, path: &Path<'_>) -> bool {
    let mut errors = Errors::new(1);
    check(node, value, path, &mut errors);
    errors.list.is_empty()
}

fn type_fits(types: Types, value: &Value) -> bool {
    match value {
        Value::Null => types.allow(Types::NULL),
        Value::Bool(_) => types.allow(Types::BOOLEAN),
        Value::String(_) => types.allow(Types::STRING),
        Value::Array(_) => types.allow(Types::ARRAY),
        Value::Object(_) => types.allow(Types::OBJECT),
        Value::Number(number) if number.is_f64() => types.allow(Types::NUMBER),
        Value::Number(_) => types.allow(Types::INTEGER.union(Types::NUMBER)),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
    }
}

/// The value for an error; never a secret, never much.
fn shown(node: &Node, value: &Value) -> Option<String> {
    if node.secret {
        return None;
    }
    let text = match value {
        Value::Array(_) | Value::Object(_) => return Some(format!("\"{}\"", type_name(value))),
        other => other.to_string(),
    };
    Some(match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    })
}

fn as_count(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
