//! A cell of a Table: the value at a column's path.
//!
//! Paths are dotted fields; `list[2]` is an element, `list[Ready]` the element whose `type` is `Ready`, and a `#` at the
//! end counts elements or fields, of which what is absent has none.

use jiff::Timestamp;
use mainstay_api::Column;
use serde_json::Value;

use super::human_age;

/// Longer texts are cut.
const MAX_CELL: usize = 1024;

/// The cell of a column; null when there is nothing to show.
pub(super) fn cell(object: &Value, column: &Column, now: Timestamp) -> Value {
    if let Some(path) = column.path.strip_suffix('#') {
        return count(lookup(object, path)).into();
    }
    let Some(value) = lookup(object, column.path) else { return Value::Null };
    match (column.kind, value) {
        (_, Value::Null) => Value::Null,
        ("date", _) => age(value, now),
        ("string", Value::String(text)) => cut(text).into(),
        ("string", other) => cut(&other.to_string()).into(),
        ("integer" | "number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        _ => Value::Null,
    }
}

/// An age; null when there is no time.
pub(super) fn age(time: &Value, now: Timestamp) -> Value {
    match time.as_str().map(str::parse::<Timestamp>) {
        Some(Ok(then)) => human_age(then, now).into(),
        Some(Err(_)) => "<invalid>".into(),
        None => "<unknown>".into(),
    }
}

fn lookup<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(object, |value, step| {
        let Some((field, element)) = step.strip_suffix(']').and_then(|step| step.split_once('[')) else {
            return value.get(step);
        };
        let list = value.get(field)?.as_array()?;
        match element.parse::<usize>() {
            Ok(at) => list.get(at),
            Err(_) => list.iter().find(|item| item["type"] == element),
        }
    })
}

fn count(value: Option<&Value>) -> usize {
    match value {
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(fields)) => fields.len(),
        _ => 0,
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_CELL) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
