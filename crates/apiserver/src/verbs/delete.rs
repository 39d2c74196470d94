//! `delete` and `deletecollection`: an object goes at once, or waits for its finalizers.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use mainstay_api::project::RESERVED;
use mainstay_runtime::guard::Guard;
use mainstay_store::{Object, StoreError, Write};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::Body;
use crate::catalog::{Entry, Habit};
use crate::content::{self, Media};
use crate::habits;
use crate::object;
use crate::operation::removal;
use crate::respond;
use crate::server::{ApiServer, Call};
use crate::status::{ApiError, ApiResult};
use crate::verbs::{list, read};

/// The garbage collector removes the dependents first, then this finalizer.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The garbage collector takes the dependents' owner reference away, then this finalizer.
pub(crate) const ORPHAN: &str = "orphan";
/// Grace period of a Pod that says nothing.
const POD_GRACE: i64 = 10;
/// Lost races before the caller is told.
const MAX_RACES: usize = 128;

/// `DeleteOptions`, from the body and the query.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteOptions {
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    propagation_policy: Option<Propagation>,
    orphan_dependents: Option<bool>,
    dry_run: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl DeleteOptions {
    fn read(call: &Call<'_>, body: &[u8]) -> ApiResult<Self> {
        let mut options = if body.is_empty() { Self::default() } else { Self::parse(call, body)? };
        if let Some(grace) = call.query.number("gracePeriodSeconds")? {
            options.grace_period_seconds = Some(grace);
        }
        if let Some(policy) = call.query.get("propagationPolicy") {
            let policy: Result<Propagation, _> = serde_json::from_value(Value::String(policy.to_owned()));
            options.propagation_policy =
                Some(policy.map_err(|error| ApiError::bad_request(format!("propagationPolicy: {error}")))?);
        }
        if call.query.get("orphanDependents").is_some() {
            options.orphan_dependents = Some(call.query.flag("orphanDependents")?);
        }
        options.dry_run.extend(call.query.all("dryRun").filter(|value| !value.is_empty()).map(str::to_owned));
        if let Some(wrong) = options.dry_run.iter().find(|value| *value != "All") {
            return Err(ApiError::bad_request(format!("dryRun: unsupported value {wrong:?}: supported: \"All\"")));
        }
        if options.grace_period_seconds.is_some_and(|grace| grace < 0) {
            return Err(ApiError::bad_request("gracePeriodSeconds must not be negative"));
        }
        if options.orphan_dependents.is_some() && options.propagation_policy.is_some() {
            return Err(ApiError::bad_request("orphanDependents and propagationPolicy cannot both be set"));
        }
        Ok(options)
    }

    fn parse(call: &Call<'_>, body: &[u8]) -> ApiResult<Self> {
        if Media::of(&call.parts.headers) == Media::Unknown {
            // Some clients send no DeleteOptions but still a body type of their own.
            return Err(ApiError::unsupported_media_type("DeleteOptions must be application/json or application/yaml"));
        }
        let value = content::parse_fields(&call.parts.headers, body, "a valid DeleteOptions")?;
        // What comes here by mistake must not delete: another object, or a precondition that is none.
        if !matches!(value["kind"].as_str(), None | Some("DeleteOptions")) {
            return Err(ApiError::bad_request(format!(
                "the body is not a valid DeleteOptions, but a {}",
                value["kind"]
            )));
        }
        if !matches!(value["preconditions"], Value::Null | Value::Object(_)) {
            return Err(ApiError::bad_request(
                "the body is not a valid DeleteOptions: preconditions must be an object",
            ));
        }
        Self::deserialize(&value)
            .map_err(|error| ApiError::bad_request(format!("the body is not a valid DeleteOptions: {error}")))
    }

    fn policy(&self) -> Propagation {
        match (self.propagation_policy, self.orphan_dependents) {
            (Some(policy), _) => policy,
            (None, Some(true)) => Propagation::Orphan,
            (None, _) => Propagation::Background,
        }
    }
}

/// Answers `DELETE` of one object.
///
/// # Errors
/// 404, 409 for preconditions that do not hold, and what the store refuses.
pub(crate) async fn delete(call: &Call<'_>, body: Bytes) -> ApiResult<Response<Body>> {
    let options = DeleteOptions::read(call, &body)?;
    match remove(call, call.namespace(), call.name(), &options).await? {
        Removed::Gone(object) => gone(call, &object),
        Removed::Going(object) => read::object_response(call, StatusCode::OK, &object).await,
    }
}

fn gone(call: &Call<'_>, object: &Object) -> ApiResult<Response<Body>> {
    let mut details = json!({"name": &*object.key.name, "kind": call.entry.kind.plural, "uid": &*object.meta.uid});
    if !call.entry.kind.group.is_empty() {
        details["group"] = call.entry.kind.group.into();
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    Ok(respond::json(StatusCode::OK, object::to_bytes(&status)?))
}

/// Answers `DELETE` of a collection: the objects that match now, each on its own.
///
/// # Errors
/// 400 for more objects than the limit, and the first failure; a 409 of one is told after all others were deleted.
pub(crate) async fn delete_collection(call: &Call<'_>, body: Bytes) -> ApiResult<Response<Body>> {
    let options = DeleteOptions::read(call, &body)?;
    let found = list::all(call).await?;
    let most = call.server.limits().delete_collection;
    if found.len() > most {
        return Err(ApiError::bad_request(format!(
            "{} objects match, more than one request may delete ({most}); narrow it with a selector",
            found.len()
        )));
    }
    let mut items = Vec::with_capacity(found.len());
    let mut refused = None;
    for object in found {
        match remove(call, &object.key.namespace, &object.key.name, &options).await {
            Ok(Removed::Gone(object) | Removed::Going(object)) => items.push(object),
            Err(error) if error.code() == 404 => {}
            // What may not go yet does not keep the others.
            Err(error) if error.code() == 409 => refused = refused.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = refused {
        return Err(error);
    }
    let found = list::Found { revision: call.server.store().revision(), items, next: None, remaining: None };
    list::as_json(call, &found).await
}

enum Removed {
    Gone(Arc<Object>),
    Going(Arc<Object>),
}

async fn remove(call: &Call<'_>, namespace: &str, name: &str, options: &DeleteOptions) -> ApiResult<Removed> {
    let about = call.about(name);
    // Where everything of the platform lives, and what commands without a namespace mean.
    if call.entry.habit == Habit::Namespace && RESERVED.contains(&name) {
        return Err(ApiError::forbidden(about, "this namespace may not be deleted"));
    }
    let key = call.entry.key(namespace, name);
    for _ in 0..MAX_RACES {
        let found = call.server.store().get(&key).await.map_err(|error| ApiError::from_store(&error, about))?;
        let current = found.ok_or_else(|| ApiError::not_found(about))?;
        check(call, &current, options)?;
        let old = object::parse(&current)?;
        let begun = match call.entry.habit {
            Habit::Operation => Cow::Owned(removal::begin(call.server, about, &old).await?),
            _ => Cow::Borrowed(&old),
        };
        let new = marked(call.server, call.entry, &begun, options);
        let held = object::is_held(&new) && Guard::Finalizers.holds();
        if held && object::same_but_revision(&old, &new) {
            return Ok(Removed::Going(current));
        }
        let draft = habits::draft(call.entry, &new)?;
        if !options.dry_run.is_empty() {
            let body = draft.finish(current.revision);
            let shown = Arc::new(Object { key, revision: current.revision, meta: draft.meta, body });
            return Ok(if held { Removed::Going(shown) } else { Removed::Gone(shown) });
        }
        let (key, expected) = (key.clone(), current.revision);
        let write = if held { Write::Update { key, draft, expected } } else { Write::Delete { key, draft, expected } };
        match call.write(write).await {
            Ok(object) if held => return Ok(Removed::Going(object)),
            Ok(object) => {
                habits::deleted(call.server, call.entry, &object);
                return Ok(Removed::Gone(object));
            }
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(ApiError::from_store(&error, about)),
        }
    }
    Err(ApiError::modified(about))
}

fn check(call: &Call<'_>, current: &Object, options: &DeleteOptions) -> ApiResult<()> {
    let Some(wanted) = &options.preconditions else { return Ok(()) };
    let about = call.about(&current.key.name);
    if let Some(uid) = wanted.uid.as_deref().filter(|uid| **uid != *current.meta.uid && Guard::Uid.holds()) {
        let found = &current.meta.uid;
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
        return Err(ApiError::conflict(about, why));
    }
    let found = current.revision.to_string();
    if let Some(revision) = wanted.resource_version.as_deref().filter(|revision| *revision != found) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in object meta: {found}"
        );
        return Err(ApiError::conflict(about, why));
    }
    Ok(())
}

/// The object as it is when the server itself has begun its deletion.
pub(crate) fn marked_by_server(server: &ApiServer, entry: &Entry, old: &Value) -> Value {
    marked(server, entry, old, &DeleteOptions::default())
}

/// The object as it is when its deletion has begun.
fn marked(server: &ApiServer, entry: &Entry, old: &Value, options: &DeleteOptions) -> Value {
    let mut new = old.clone();
    let mut finalizers: Vec<&str> = object::finalizers(old);
    finalizers.retain(|name| !matches!(*name, FOREGROUND | ORPHAN));
    match options.policy() {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND),
        Propagation::Orphan => finalizers.push(ORPHAN),
    }
    let deleting = object::is_deleting(old);
    // A second delete may change its mind about dependents only where it says so.
    if !deleting || options.propagation_policy.is_some() || options.orphan_dependents.is_some() {
        if finalizers.is_empty() {
            object::unset(&mut new, "finalizers");
        } else {
            object::set(&mut new, "finalizers", finalizers);
        }
    }
    let grace = grace(entry, old, options);
    let known = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if !deleting || known.is_some_and(|known| grace < known) {
        let at = server.clock().now() + std::time::Duration::from_secs(grace.unsigned_abs());
        object::set(&mut new, "deletionTimestamp", object::time(at));
        object::set(&mut new, "deletionGracePeriodSeconds", grace);
    }
    if !deleting && entry.has_generation() {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        object::set(&mut new, "generation", generation);
    }
    if entry.habit == Habit::Namespace {
        new["status"]["phase"] = "Terminating".into();
    }
    new
}

/// Only a Pod has something to wind up.
fn grace(entry: &Entry, old: &Value, options: &DeleteOptions) -> i64 {
    if entry.habit != Habit::Pod {
        return 0;
    }
    let own = old["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(POD_GRACE);
    options.grace_period_seconds.unwrap_or(own).clamp(0, 86_400)
}
