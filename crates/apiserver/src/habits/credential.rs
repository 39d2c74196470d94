//! `Credential`: `spec.token` is sealed at rest and write-only. Leaving it out of a write keeps the stored one.

use serde_json::Value;

use super::{KUBECTL_APPLIED, crypt_failure, place};
use crate::catalog::Entry;
use crate::server::ApiServer;
use crate::status::ApiResult;

const FIELD: &str = "spec.token";

/// Takes the token out.
pub(crate) fn hide(value: &mut Value) {
    if let Some(spec) = value["spec"].as_object_mut() {
        spec.remove("token");
    }
}

/// Puts the known token back where a write says nothing of it.
pub(crate) fn restore(new: &mut Value, old: &Value) {
    if let (None | Some(Value::Null), Some(token)) = (new["spec"].get("token"), old["spec"].get("token"))
        && new["spec"].is_object()
    {
        new["spec"]["token"] = token.clone();
    }
}

/// `status.tokenSet` follows the token; the initial one is set by the kind. What kubectl remembers of a manifest is kept
/// without the token: whoever reads the object reads its annotations.
pub(crate) fn complete(new: &mut Value, old: Option<&Value>) {
    forget_token(new);
    if old.is_some() {
        let set = new["spec"]["token"].is_string();
        if !new["status"].is_object() {
            new["status"] = serde_json::json!({});
        }
        new["status"]["tokenSet"] = set.into();
    }
}

fn forget_token(object: &mut Value) {
    let Some(Value::String(applied)) = object.pointer_mut(KUBECTL_APPLIED) else { return };
    let manifest = serde_json::from_str::<Value>(applied).ok();
    *applied = match manifest {
        Some(mut manifest) if manifest["spec"].is_object() => {
            if manifest["spec"].get("token").is_none() && !applied.contains("\"token\"") {
                // Byte for byte as it came, or kubectl takes what it finds for a change.
                return;
            }
            hide(&mut manifest);
            manifest.to_string()
        }
        // Not what kubectl writes for a Credential: nobody knows what is in it.
        _ => "{}".to_owned(),
    };
}

/// The object with its token sealed.
///
/// # Errors
/// 500 when sealing fails.
pub(crate) fn seal(server: &ApiServer, entry: &Entry, opened: &Value) -> ApiResult<Value> {
    let mut sealed = opened.clone();
    if let Some(Value::String(token)) = sealed["spec"].get_mut("token") {
        let at = place(entry, opened, FIELD);
        *token =
            server.sealer().seal(&at, token.as_bytes()).map_err(|error| crypt_failure(entry, opened, FIELD, error))?;
    }
    Ok(sealed)
}

/// Opens the token in place.
///
/// # Errors
/// 500 when it was not sealed for this object, or was changed since.
pub(crate) fn open(server: &ApiServer, entry: &Entry, stored: &mut Value) -> ApiResult<()> {
    let Some(sealed) = stored["spec"]["token"].as_str() else { return Ok(()) };
    let plain = server
        .sealer()
        .open(&place(entry, stored, FIELD), sealed)
        .map_err(|error| crypt_failure(entry, stored, FIELD, error))?;
    stored["spec"]["token"] = Value::String(String::from_utf8_lossy(&plain).into_owned());
    Ok(())
}
