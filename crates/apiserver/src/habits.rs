//! Kinds that are stored, read or written in a way of their own, one file each; every other kind passes through.
//!
//! An object has up to three forms. *Stored*: secrets sealed. *Opened*: secrets in the clear, only in memory, what a
//! change is compared with. *Visible*: what clients read and patch, without what is write-only.

pub(crate) mod credential;
mod namespace;
pub(crate) mod operation;
mod project;
pub(crate) mod secret;
pub(crate) mod session;

use std::sync::Arc;

use bytes::Bytes;
use mainstay_api::{Fault, FieldError};
use mainstay_store::{Draft, Object};
use serde_json::Value;

use crate::catalog::{Entry, Habit};
use crate::crypt::{CryptError, MAX_PLAIN, Place};
use crate::object;
use crate::operation::shown;
use crate::rbac::guard::Change;
use crate::request::Verb;
use crate::route;
use crate::server::{ApiServer, Call};
use crate::status::{About, ApiError, ApiResult};

/// Stored to opened.
///
/// # Errors
/// 500 when a sealed value cannot be opened.
pub(crate) fn opened(server: &ApiServer, entry: &Entry, mut value: Value) -> ApiResult<Value> {
    match entry.habit {
        Habit::Secret => secret::open(server, entry, &mut value)?,
        Habit::Credential => credential::open(server, entry, &mut value)?,
        Habit::Plain
        | Habit::Session
        | Habit::Namespace
        | Habit::Pod
        | Habit::ServiceAccount
        | Habit::Node
        | Habit::Project
        | Habit::Operation => {}
    }
    Ok(value)
}

/// Opened to visible.
pub(crate) fn visible(entry: &Entry, opened: &Value) -> Value {
    let mut value = opened.clone();
    if entry.habit == Habit::Credential {
        credential::hide(&mut value);
    }
    value
}

/// What a write that came from the visible form left out because it cannot be seen.
pub(crate) fn restore(entry: &Entry, new: &mut Value, old: &Value) {
    if entry.habit == Habit::Credential {
        credential::restore(new, old);
    }
}

/// The opened form, sealed and serialised for the store.
///
/// # Errors
/// 500 when it cannot be sealed.
pub(crate) fn sealed_draft(server: &ApiServer, entry: &Entry, opened: &Value) -> ApiResult<Draft> {
    match entry.habit {
        Habit::Secret => object::draft(entry, &secret::seal(server, entry, opened)?),
        Habit::Credential => object::draft(entry, &credential::seal(server, entry, opened)?),
        Habit::Plain
        | Habit::Session
        | Habit::Namespace
        | Habit::Pod
        | Habit::ServiceAccount
        | Habit::Node
        | Habit::Project
        | Habit::Operation => draft(entry, opened),
    }
}

/// The stored form, serialised for the store: what is sealed stays as it is.
///
/// # Errors
/// 500 when it cannot be serialised, which a parsed value always can.
pub(crate) fn draft(entry: &Entry, stored: &Value) -> ApiResult<Draft> {
    if entry.habit == Habit::Operation { operation::draft(entry, stored) } else { object::draft(entry, stored) }
}

/// The visible form of a stored object, as bytes.
///
/// # Errors
/// 500 when a sealed value cannot be opened.
pub(crate) async fn readable(server: &ApiServer, entry: &Entry, stored: &Arc<Object>) -> ApiResult<Bytes> {
    match entry.habit {
        Habit::Session => session::with_activity(server, stored).await,
        Habit::Operation => {
            let mut shown = shown::readable(server, std::slice::from_ref(stored)).await?;
            shown.pop().ok_or_else(|| ApiError::internal("an operation is not shown"))
        }
        _ => readable_now(server, entry, stored),
    }
}

/// As [`readable`], of a page of objects.
///
/// # Errors
/// As [`readable`].
pub(crate) async fn all_readable(server: &ApiServer, entry: &Entry, stored: &[Arc<Object>]) -> ApiResult<Vec<Bytes>> {
    if entry.habit == Habit::Operation {
        return shown::readable(server, stored).await;
    }
    let mut all = Vec::with_capacity(stored.len());
    for object in stored {
        all.push(readable(server, entry, object).await?);
    }
    Ok(all)
}

/// As [`readable`], without what has to be waited for: a watch shows a session's activity, and an operation's progress,
/// as they are written.
///
/// # Errors
/// 500 when a sealed value cannot be opened.
pub(crate) fn readable_now(server: &ApiServer, entry: &Entry, stored: &Object) -> ApiResult<Bytes> {
    match entry.habit {
        Habit::Secret => object::to_bytes(&opened(server, entry, object::parse(stored)?)?),
        Habit::Credential => {
            // The token need not be opened to be left out.
            let mut value = object::parse(stored)?;
            credential::hide(&mut value);
            object::to_bytes(&value)
        }
        Habit::Plain
        | Habit::Session
        | Habit::Namespace
        | Habit::Pod
        | Habit::ServiceAccount
        | Habit::Node
        | Habit::Project
        | Habit::Operation => Ok(stored.body.clone()),
    }
}

/// Completes a new or changed object after its schema, before its rules.
///
/// # Errors
/// What the store refuses.
pub(crate) async fn complete(
    call: &Call<'_>,
    new: &mut Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) -> ApiResult<()> {
    match call.entry.habit {
        Habit::Secret => secret::complete(new),
        Habit::Credential => credential::complete(new, old),
        Habit::Session => session::complete(call, new, errors).await?,
        Habit::Namespace => namespace::complete(new, old, errors),
        Habit::Project if old.is_none() => project::complete(call, new).await?,
        Habit::Operation => operation::complete(call.server, new, old, errors),
        Habit::Plain | Habit::Pod | Habit::ServiceAccount | Habit::Node | Habit::Project => {}
    }
    Ok(())
}

/// Rights that depend on what is written, not only on the path.
///
/// # Errors
/// 403.
pub(crate) async fn permit(call: &Call<'_>, new: &Value, old: Option<&Value>) -> ApiResult<()> {
    let what = route::attributes_of(call.path, Verb::Update);
    call.server.access().admit(call, &Change { what, new, old }).await
}

/// What follows the true end of an object.
pub(crate) fn deleted(server: &ApiServer, entry: &Entry, gone: &Arc<Object>) {
    if entry.habit == Habit::Session {
        session::deleted(server, gone.meta.uid.clone());
    }
}

/// The place of one field of an object, which binds what is sealed to it.
fn place<'a>(entry: &'a Entry, object: &'a Value, field: &'a str) -> Place<'a> {
    Place {
        group: entry.kind.group,
        resource: entry.kind.plural,
        namespace: object::text(object, "namespace"),
        name: object::text(object, "name"),
        uid: object::text(object, "uid"),
        field,
    }
}

/// Where kubectl keeps the manifest that it applied last, as it was sent: also what was secret in it.
pub(crate) const KUBECTL_APPLIED: &str = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";

fn crypt_failure(entry: &Entry, object: &Value, field: &str, error: CryptError) -> ApiError {
    let (kind, name) = (entry.kind.kind, object::text(object, "name"));
    if error == CryptError::TooLarge {
        let detail = format!("may not be more than {MAX_PLAIN} bytes");
        let wrong = FieldError::new(field, Fault::TooLong, detail);
        return ApiError::invalid(About { kind: &entry.kind, name }, &[wrong]);
    }
    if error == CryptError::Stale {
        return ApiError::unavailable(error.to_string());
    }
    tracing::error!(kind, namespace = object::text(object, "namespace"), name, %error, "a secret cannot be sealed or opened");
    ApiError::internal(format_args!("the secret part of {kind} {name:?} cannot be sealed or opened"))
}
