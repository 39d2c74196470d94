//! `create`: a new object, with what the server adds.

use bytes::Bytes;
use http::{Response, StatusCode};
use mainstay_runtime::trace;
use mainstay_store::{Object, Requires, Revision, StoreError, Write};
use rand::seq::IndexedRandom;
use serde_json::{Map, Value};
use std::sync::Arc;
use tracing::Span;

use crate::admission::{self, WriteOptions, metadata};
use crate::body::Body;
use crate::catalog::Habit;
use crate::content;
use crate::habits;
use crate::object;
use crate::quota::{self, Room};
use crate::server::Call;
use crate::status::{About, ApiError, ApiResult};
use crate::verbs::{batch, read};

/// Letters and digits that cannot spell words or be mistaken for each other, as upstream uses.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Upstream cuts the base so that a generated name fits a label.
const MAX_GENERATED_BASE: usize = 58;
/// Draws of a generated name before giving up.
const MAX_DRAWS: usize = 8;
/// Draws, and changes of the namespace or of what is used in it in between, before giving up.
const MAX_RACES: usize = 128;

/// Answers `POST` on a collection.
///
/// # Errors
/// Whatever admission or the store refuse.
pub(crate) async fn create(call: &Call<'_>, body: Bytes) -> ApiResult<Response<Body>> {
    let options = WriteOptions::of(call.query)?;
    let mut warnings = Vec::new();
    let parsed = content::parse_object(&call.parts.headers, &body)?;
    let value = admission::duplicates(parsed, options, &mut warnings)?;
    drop(body);
    if batch::is_batch(call.entry, &value) {
        return batch::create(call, value, options).await;
    }
    let mut new = identify(call, value)?;
    let within = place(call, object::text(&new.value, "name")).await?;
    complete(call, &mut new.value, options, &mut warnings).await?;
    let room = quota::admit(call, &new.value).await?;
    let created =
        if options.dry_run { pretend(call, &new.value).await? } else { store(call, new, within, room).await? };
    let mut response = read::object_response(call, StatusCode::CREATED, &created).await?;
    crate::respond::warn(&mut response, &warnings);
    Ok(response)
}

/// A new object on its way into the store.
#[derive(Debug)]
pub(super) struct New {
    /// The object.
    pub(super) value: Value,
    /// The base of its name, when that is generated.
    generate: Option<String>,
}

/// Type, place and name of a new object.
///
/// # Errors
/// 400 when they are not those of the path, 422 for a status that nobody may give it.
pub(super) fn identify(call: &Call<'_>, mut value: Value) -> ApiResult<New> {
    admission::check_type(call.entry, &mut value)?;
    admission::check_namespace(call.entry, &mut value, call.namespace())?;
    if call.entry.habit == Habit::Operation {
        habits::operation::refuse_status(call.entry, &value)?;
    }
    let generate = prepare(call, &mut value)?;
    Ok(New { value, generate })
}

/// Sets what only the server may set; returns the base of a generated name.
fn prepare(call: &Call<'_>, value: &mut Value) -> ApiResult<Option<String>> {
    if !object::text(value, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink", "generation"] {
        object::unset(value, field);
    }
    if call.entry.habit == Habit::Operation {
        annotate(value);
    }
    object::set(value, "uid", uuid::Uuid::new_v4().to_string());
    object::set(value, "creationTimestamp", object::time(call.server.clock().now()));
    if call.entry.has_generation() {
        object::set(value, "generation", 1);
    }
    if let (true, Some(fields)) = (call.entry.kind.status, value.as_object_mut()) {
        fields.remove("status");
    }
    if !object::text(value, "name").is_empty() {
        return Ok(None);
    }
    let base: String = object::text(value, "generateName").chars().take(MAX_GENERATED_BASE).collect();
    if base.is_empty() {
        return Ok(None);
    }
    object::set(value, "name", draw_name(&base));
    Ok(Some(base))
}

/// An operation says by which request it was created, so that what is done for it belongs to the same trace.
fn annotate(value: &mut Value) {
    if let Some(annotations) = value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(trace::ANNOTATION);
    }
    let Some(request) = trace::traceparent(&Span::current()) else { return };
    let annotations = &mut value["metadata"]["annotations"];
    // What is neither is refused later on.
    if annotations.is_null() || annotations.is_object() {
        annotations[trace::ANNOTATION] = request.into();
    }
}

fn draw_name(base: &str) -> String {
    let mut random = rand::rng();
    let suffix = (0..5).filter_map(|_| SUFFIX.choose(&mut random)).map(|byte| char::from(*byte));
    base.chars().chain(suffix).collect()
}

/// Schema, the kind's own completion, and all rules.
///
/// # Errors
/// 400 and 422 for what is wrong with it, 403 for what the caller may not write.
pub(super) async fn complete(
    call: &Call<'_>,
    value: &mut Value,
    options: WriteOptions,
    warnings: &mut Vec<String>,
) -> ApiResult<()> {
    let entry = call.entry;
    let mut errors = admission::schema(entry, value, options, warnings)?;
    metadata::check(&entry.kind, value, &mut errors);
    if errors.is_empty() {
        habits::complete(call, value, None, &mut errors).await?;
        (entry.kind.rules.on_create)(value);
        errors.extend((entry.kind.rules.check)(value, None));
    }
    admission::refuse_any(entry, object::text(value, "name"), &errors)?;
    habits::permit(call, value, None).await
}

/// Writes the object where it still may be: whatever happened since the first look at its namespace, and however this
/// server ends, nothing comes into being in a namespace that is gone or going, or for which there is no room.
///
/// # Errors
/// 409 when the name is taken, 403 when there is no room any more, and what the store refuses.
pub(super) async fn store(
    call: &Call<'_>,
    new: New,
    mut within: Option<Requires>,
    mut room: Option<Room<'_>>,
) -> ApiResult<Arc<Object>> {
    let New { mut value, generate } = new;
    let value = &mut value;
    let mut draws = 1;
    for _ in 0..MAX_RACES {
        let key = call.entry.key(call.namespace(), object::text(value, "name"));
        let draft = habits::sealed_draft(call.server, call.entry, value)?;
        trace::writes(&draft.meta.uid);
        let since = room.as_ref().map(Room::since);
        match call.write_if_none_since(since, Write::Create { key, draft, requires: within.clone() }).await {
            Err(StoreError::Exists(_)) if generate.is_some() && draws < MAX_DRAWS => {
                draws += 1;
                object::set(value, "name", draw_name(generate.as_deref().unwrap_or_default()));
            }
            Err(StoreError::Unmet(_)) => {
                within = place(call, object::text(value, "name")).await?;
                if let Some(room) = &mut room {
                    room.count(call, value).await?;
                }
            }
            other => {
                return other.map_err(|error| ApiError::from_store(&error, call.about(object::text(value, "name"))));
            }
        }
    }
    Err(ApiError::modified(call.about(object::text(value, "name"))))
}

/// What `dryRun` answers: the object as it would be, at no revision.
///
/// # Errors
/// 409 when the name is taken, and what the store refuses.
pub(super) async fn pretend(call: &Call<'_>, value: &Value) -> ApiResult<Arc<Object>> {
    let name = object::text(value, "name");
    let key = call.entry.key(call.namespace(), name);
    let found = call.server.store().get(&key).await.map_err(|error| ApiError::from_store(&error, call.about(name)))?;
    if found.is_some() {
        return Err(ApiError::already_exists(call.about(name)));
    }
    let draft = habits::sealed_draft(call.server, call.entry, value)?;
    let mut shown: Value = serde_json::from_slice(&draft.finish(Revision(0))).unwrap_or(Value::Object(Map::new()));
    object::unset(&mut shown, "resourceVersion");
    let body = object::to_bytes(&shown)?;
    Ok(Arc::new(Object { key, revision: Revision(0), meta: draft.meta, body }))
}

/// What must stay true for a new object to be stored: its namespace exists and is not going away.
///
/// # Errors
/// 404 when there is none, 403 when it is terminating.
pub(super) async fn place(call: &Call<'_>, name: &str) -> ApiResult<Option<Requires>> {
    let (server, kind, namespace) = (call.server, &call.entry.kind, call.namespace());
    let Some(namespaces) = server.catalog().of_group("", "namespaces").filter(|_| kind.namespaced) else {
        return Ok(None);
    };
    let about = About { kind: &namespaces.kind, name: namespace };
    let (store, key, failed) =
        (server.store(), namespaces.key("", namespace), |error| ApiError::from_store(&error, about));
    let mut found = store.get(&key).await.map_err(failed)?;
    if found.is_none() {
        // It may have been made at another replica a moment ago.
        store.reach(Revision(u64::MAX)).await.map_err(failed)?;
        found = store.get(&key).await.map_err(failed)?;
    }
    let found = found.ok_or_else(|| ApiError::not_found(about))?;
    if object::is_terminating(&found) {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(ApiError::forbidden(About { kind, name }, &why).with_cause(
            "NamespaceTerminating",
            "metadata.namespace",
            format!("namespace {namespace} is being terminated"),
        ));
    }
    Ok(Some(Requires { key: found.key.clone(), revision: found.revision }))
}
