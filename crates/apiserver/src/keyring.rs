//! The keys as administrators see and rotate them, and what keeps this process's in step with the ring.
//!
//! | request | does |
//! |---|---|
//! | `GET /keys` | tells every version, and what it is good for; never a key |
//! | `POST /keys/NAME/rotate` | makes a new version |
//! | `POST /keys/NAME/retire?version=N` | ends a version before its time: what was made with it is refused from now on |
//! | `POST /keys/rewrap` | wraps all by the key in the file beside the server's key file |

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use mainstay_runtime::duty::table;
use mainstay_runtime::failure::chain_of;
use mainstay_runtime::{Class, Classify, Doing, Reason};
use serde_json::{Value, json};

use crate::auth::Identity;
use crate::body::Body;
use crate::keys::{KeyName, Keys, KeysError};
use crate::request::Query;
use crate::respond;
use crate::server::ApiServer;
use crate::status::{ApiError, ApiResult};

/// Reads the ring whenever it is said to have changed, and every few seconds.
pub(crate) fn follow(server: &ApiServer) {
    let keys = server.access().keys().clone();
    let (mut changes, stopping) = (keys.ring_changes(), server.tasks().stopping());
    let told = keys.clone();
    drop(server.tasks().spawn("keyring", async move {
        while let Some(Ok(())) = stopping.run_until_cancelled(changes.changed()).await {
            // The duty repeats what fails, and says so.
            told.refresh().await.ok();
        }
    }));
    server.duties().start(&table::KEYRING, move |_| {
        let keys = keys.clone();
        async move { keys.refresh().await.doing("read the keys") }
    });
}

/// Whether a path is about keys.
pub(crate) fn is_path(path: &str) -> bool {
    path == "/keys" || path.starts_with("/keys/")
}

/// Answers a request whose caller may make it.
///
/// # Errors
/// 404, 405, and what cannot be done.
pub(crate) async fn answer(server: &ApiServer, parts: &Parts, path: &str, who: &Identity) -> ApiResult<Response<Body>> {
    let keys = server.access().keys();
    let mut steps = path.split('/').skip(2);
    let (name, act) = (steps.next(), steps.next());
    let name = match (name, act, steps.next()) {
        (None, None, None) => return shown(keys, &parts.method),
        (Some("rewrap"), None, None) => None,
        (Some(name), Some(_), None) => Some(KeyName::of(name).ok_or_else(ApiError::no_such_path)?),
        _ => return Err(ApiError::no_such_path()),
    };
    if parts.method != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let told = match (name, act) {
        (None, _) => json!({"wrappingKey": keys.rewrap().await.map_err(|error| refused(&error))?}),
        (Some(name), Some("rotate")) => {
            let version = keys.rotate(name, server.clock().now()).await.map_err(|error| refused(&error))?;
            json!({"name": name.as_str(), "version": version})
        }
        (Some(name), Some("retire")) => {
            let version = version_of(parts)?;
            retire(keys, name, version).await?;
            json!({"name": name.as_str(), "version": version})
        }
        _ => return Err(ApiError::no_such_path()),
    };
    tracing::info!(user = who.user(), path, %told, "the keys were changed");
    Ok(document(&told))
}

fn shown(keys: &Keys, method: &Method) -> ApiResult<Response<Body>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    Ok(document(&json!({"wrappingKey": keys.wrapped_by(), "keys": keys.versions()})))
}

fn document(value: &Value) -> Response<Body> {
    respond::json(StatusCode::OK, Bytes::from(value.to_string()))
}

fn version_of(parts: &Parts) -> ApiResult<u64> {
    let query = Query::parse(parts.uri.query())?;
    let version = query.all("version").next().and_then(|version| version.parse().ok());
    version.ok_or_else(|| ApiError::bad_request("version: must be the number of a version"))
}

async fn retire(keys: &Keys, name: KeyName, version: u64) -> ApiResult<()> {
    if name == KeyName::Data {
        let why = "a data key is retired by itself, once nothing is sealed under it any more";
        return Err(ApiError::new(409, "Conflict", why));
    }
    if !keys.versions().iter().any(|known| known.name == name.as_str() && known.version == version) {
        return Err(ApiError::new(
            404,
            "NotFound",
            format!("there is no version {version} of the key {}", name.as_str()),
        ));
    }
    keys.retire(name, &[version]).await.map_err(|error| refused(&error))
}

/// What could not be done with the keys; the words hold none of them.
fn refused(error: &KeysError) -> ApiError {
    let text = chain_of(error);
    match error.class() {
        Class::Terminal(Reason::Corrupt) | Class::Indeterminate => ApiError::internal(text),
        Class::Terminal(_) | Class::Conflict => ApiError::new(409, "Conflict", text),
        _ => ApiError::unavailable(text),
    }
}
