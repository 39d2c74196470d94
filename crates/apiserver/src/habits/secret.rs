//! `Secret`: the values of `data` are sealed at rest, each for its own key of its own object.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::{KUBECTL_APPLIED, crypt_failure, place};
use crate::catalog::Entry;
use crate::server::ApiServer;
use crate::status::ApiResult;

/// Moves `stringData` into `data`, as upstream does.
pub(crate) fn complete(new: &mut Value) {
    let Some(fields) = new.as_object_mut() else { return };
    let Some(Value::Object(plain)) = fields.remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if !data.is_object() {
        *data = Value::Object(Map::new());
    }
    for (key, value) in plain {
        data[key] = Value::String(BASE64_STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

/// The object with its values sealed.
///
/// # Errors
/// 422 for a value that is too large, 500 when sealing fails.
pub(crate) fn seal(server: &ApiServer, entry: &Entry, opened: &Value) -> ApiResult<Value> {
    let mut sealed = opened.clone();
    each(&mut sealed, |field, value| {
        let at = place(entry, opened, field);
        server.sealer().seal(&at, value.as_bytes()).map_err(|error| crypt_failure(entry, opened, field, error))
    })?;
    Ok(sealed)
}

/// Opens the values in place.
///
/// # Errors
/// 500 when a value was not sealed for this place, or was changed since.
pub(crate) fn open(server: &ApiServer, entry: &Entry, stored: &mut Value) -> ApiResult<()> {
    let whole = stored.clone();
    each(stored, |field, value| {
        let plain = server
            .sealer()
            .open(&place(entry, &whole, field), value)
            .map_err(|error| crypt_failure(entry, &whole, field, error))?;
        Ok(String::from_utf8_lossy(&plain).into_owned())
    })
}

/// Every text that is secret, with its place: the values, and the manifest that kubectl remembers.
fn each(object: &mut Value, change: impl Fn(&str, &str) -> ApiResult<String>) -> ApiResult<()> {
    for (key, value) in object["data"].as_object_mut().into_iter().flatten() {
        if let Value::String(text) = value {
            *text = change(&format!("data.{key}"), text)?;
        }
    }
    if let Some(Value::String(applied)) = object.pointer_mut(KUBECTL_APPLIED) {
        *applied = change("metadata.annotations", applied)?;
    }
    Ok(())
}
