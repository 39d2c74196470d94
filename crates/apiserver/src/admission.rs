//! What every write passes before it is stored: type, metadata, schema, the kind's rules.
//!
//! The order is fixed: identity of the object first (a wrong name is a 400 before anything is judged), then schema
//! defaults, pruning and types, then the kind's own completion, then all rules together, so that one answer names
//! everything that is wrong.

pub(crate) mod metadata;

use mainstay_api::FieldError;
use mainstay_api::schema::{FieldValidation, Rejection};
use serde_json::Value;

use crate::catalog::Entry;
use crate::content::Parsed;
use crate::object;
use crate::request::Query;
use crate::status::{About, ApiError, ApiResult};

/// What a write's parameters ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteOptions {
    /// Do everything but store.
    pub(crate) dry_run: bool,
    /// What to do with unknown and duplicate fields.
    pub(crate) validation: FieldValidation,
}

impl WriteOptions {
    /// Reads `dryRun` and `fieldValidation`.
    ///
    /// # Errors
    /// 400 for other values than upstream's.
    pub(crate) fn of(query: &Query<'_>) -> ApiResult<Self> {
        let mut dry_run = false;
        for value in query.all("dryRun").filter(|value| !value.is_empty()) {
            if value != "All" {
                return Err(ApiError::bad_request(format!("dryRun: unsupported value {value:?}: supported: \"All\"")));
            }
            dry_run = true;
        }
        let validation = FieldValidation::parse(query.get("fieldValidation").unwrap_or(""))
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        Ok(Self { dry_run, validation })
    }
}

/// Duplicate keys: refused, warned of or ignored.
///
/// # Errors
/// 400 under `Strict`.
pub(crate) fn duplicates(parsed: Parsed, options: WriteOptions, warnings: &mut Vec<String>) -> ApiResult<Value> {
    match options.validation {
        FieldValidation::Strict if !parsed.duplicates.is_empty() => {
            return Err(ApiError::bad_request(format!("strict decoding error: {}", parsed.duplicates.join(", "))));
        }
        FieldValidation::Warn => warnings.extend(parsed.duplicates),
        FieldValidation::Strict | FieldValidation::Ignore => {}
    }
    Ok(parsed.value)
}

/// The object must be of the kind that the URL names; absent type fields are filled in.
///
/// # Errors
/// 400 when it is not.
pub(crate) fn check_type(entry: &Entry, value: &mut Value) -> ApiResult<()> {
    let Some(fields) = value.as_object_mut() else {
        return Err(ApiError::bad_request(format!("the body must be a JSON object of kind {}", entry.kind.kind)));
    };
    for (field, expected) in [("apiVersion", entry.api_version.as_str()), ("kind", entry.kind.kind)] {
        match fields.get(field) {
            None | Some(Value::Null) => {
                fields.insert(field.to_owned(), Value::String(expected.to_owned()));
            }
            Some(Value::String(found)) if found == expected => {}
            Some(found) => {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the data ({found}) does not match the expected {field} ({expected:?})"
                )));
            }
        }
    }
    match fields.get("metadata") {
        None | Some(Value::Null) => {
            fields.insert("metadata".to_owned(), Value::Object(serde_json::Map::new()));
        }
        Some(Value::Object(_)) => {}
        Some(_) => return Err(ApiError::bad_request("metadata must be an object")),
    }
    Ok(())
}

/// The namespace of the URL is the object's; another one in the body is a mistake.
///
/// # Errors
/// 400 when they differ.
pub(crate) fn check_namespace(entry: &Entry, value: &mut Value, namespace: &str) -> ApiResult<()> {
    let given = object::text(value, "namespace");
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if entry.kind.namespaced {
        object::set(value, "namespace", namespace);
    } else {
        object::unset(value, "namespace");
    }
    Ok(())
}

/// The name in the URL is the object's.
///
/// # Errors
/// 400 when they differ.
pub(crate) fn check_name(value: &mut Value, name: &str) -> ApiResult<()> {
    let given = object::text(value, "name");
    if !given.is_empty() && given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    object::set(value, "name", name);
    Ok(())
}

/// Defaults, prunes and validates by schema; returns the field errors so that the rules' can join them.
///
/// # Errors
/// 400 for unknown fields under `Strict`.
pub(crate) fn schema(
    entry: &Entry,
    value: &mut Value,
    options: WriteOptions,
    warnings: &mut Vec<String>,
) -> ApiResult<Vec<FieldError>> {
    match entry.schema.admit(value, entry.kind.unknown, options.validation) {
        Ok(found) => {
            warnings.extend(found);
            Ok(Vec::new())
        }
        Err(Rejection::Invalid(errors)) => Ok(errors),
        Err(strict @ Rejection::Strict(_)) => {
            let (kind, version) = (entry.kind.kind, entry.kind.version);
            Err(ApiError::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: {strict}"
            )))
        }
    }
}

/// 422 with all of them when there are any.
///
/// # Errors
/// The 422.
pub(crate) fn refuse_any(entry: &Entry, name: &str, errors: &[FieldError]) -> ApiResult<()> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(About { kind: &entry.kind, name }, errors)) }
}
