//! `create`: a new object, with what the server adds.

use bytes::Bytes;
use http::{Response, StatusCode};
use mainstay_store::{Object, Requires, Revision, StoreError, Write};
use rand::seq::IndexedRandom;
use serde_json::{Map, Value};
use std::sync::Arc;

use crate::admission::{self, WriteOptions, metadata};
use crate::body::Body;
use crate::content;
use crate::habits;
use crate::object;
use crate::quota;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::verbs::read;

/// Letters and digits that cannot spell words or be mistaken for each other, as upstream uses.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Upstream cuts the base so that a generated name fits a label.
const MAX_GENERATED_BASE: usize = 58;
/// Draws of a generated name before giving up.
const MAX_DRAWS: usize = 8;
/// Draws, and changes of the namespace in between, before giving up.
const MAX_RACES: usize = 128;

/// Answers `POST` on a collection.
///
/// # Errors
/// Whatever admission or the store refuse.
pub(crate) async fn create(call: &Call<'_>, body: Bytes) -> ApiResult<Response<Body>> {
    let options = WriteOptions::of(call.query)?;
    let mut warnings = Vec::new();
    let parsed = content::parse_object(&call.parts.headers, &body)?;
    let mut value = admission::duplicates(parsed, options, &mut warnings)?;
    drop(body);
    let namespace = call.namespace().to_owned();
    admission::check_type(call.entry, &mut value)?;
    admission::check_namespace(call.entry, &mut value, &namespace)?;
    let generate = prepare(call, &mut value)?;
    let within = call.server.place(call.entry, &namespace, object::text(&value, "name")).await?;
    complete(call, &mut value, options, &mut warnings).await?;
    let turn = quota::admit(call, &value).await?;
    let created =
        if options.dry_run { pretend(call, &value).await? } else { store(call, &mut value, generate, within).await? };
    drop(turn);
    let mut response = read::object_response(call, StatusCode::CREATED, &created).await?;
    crate::respond::warn(&mut response, &warnings);
    Ok(response)
}

/// Sets what only the server may set; returns the base of a generated name.
fn prepare(call: &Call<'_>, value: &mut Value) -> ApiResult<Option<String>> {
    if !object::text(value, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink", "generation"] {
        object::unset(value, field);
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

fn draw_name(base: &str) -> String {
    let mut random = rand::rng();
    let suffix = (0..5).filter_map(|_| SUFFIX.choose(&mut random)).map(|byte| char::from(*byte));
    base.chars().chain(suffix).collect()
}

/// Schema, the kind's own completion, and all rules.
async fn complete(
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
/// server ends, nothing comes into being in a namespace that is gone or going.
async fn store(
    call: &Call<'_>,
    value: &mut Value,
    generate: Option<String>,
    mut within: Option<Requires>,
) -> ApiResult<Arc<Object>> {
    let mut draws = 1;
    for _ in 0..MAX_RACES {
        let key = call.entry.key(call.namespace(), object::text(value, "name"));
        let draft = habits::sealed_draft(call.server, call.entry, value)?;
        match call.server.store().write(Write::Create { key, draft, requires: within.clone() }).await {
            Err(StoreError::Exists(_)) if generate.is_some() && draws < MAX_DRAWS => {
                draws += 1;
                object::set(value, "name", draw_name(generate.as_deref().unwrap_or_default()));
            }
            Err(StoreError::Unmet(_)) => {
                within = call.server.place(call.entry, call.namespace(), object::text(value, "name")).await?;
            }
            other => {
                return other.map_err(|error| ApiError::from_store(&error, call.about(object::text(value, "name"))));
            }
        }
    }
    Err(ApiError::modified(call.about(object::text(value, "name"))))
}

/// What `dryRun` answers: the object as it would be, at no revision.
async fn pretend(call: &Call<'_>, value: &Value) -> ApiResult<Arc<Object>> {
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

impl crate::ApiServer {
    /// What must stay true for a new object to be stored: its namespace exists and is not going away.
    ///
    /// # Errors
    /// 404 when there is none, 403 when it is terminating.
    async fn place(&self, entry: &crate::catalog::Entry, namespace: &str, name: &str) -> ApiResult<Option<Requires>> {
        let Some(namespaces) = self.catalog().of_group("", "namespaces").filter(|_| entry.kind.namespaced) else {
            return Ok(None);
        };
        let about = crate::status::About { kind: &namespaces.kind, name: namespace };
        let found = self
            .store()
            .get(&namespaces.key("", namespace))
            .await
            .map_err(|error| ApiError::from_store(&error, about))?
            .ok_or_else(|| ApiError::not_found(about))?;
        if is_terminating(&found) {
            let about = crate::status::About { kind: &entry.kind, name };
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            return Err(ApiError::forbidden(about, &why).with_cause(
                "NamespaceTerminating",
                "metadata.namespace",
                format!("namespace {namespace} is being terminated"),
            ));
        }
        Ok(Some(Requires { key: found.key.clone(), revision: found.revision }))
    }
}

fn is_terminating(namespace: &Object) -> bool {
    #[derive(serde::Deserialize)]
    struct Probe {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Probe>(&namespace.body).is_ok_and(|probe| probe.metadata.deletion_timestamp.is_some())
}
