//! The one path of every change to an existing object: read, make the new state, admit, compare, swap.
//!
//! `update`, `patch` and their `/status` forms differ only in how the new state is made. A change that changes nothing
//! is not written, so its revision stays. A lost race is run again when the caller set no resourceVersion.

use mainstay_api::{Fault, FieldError};
use mainstay_runtime::trace;
use mainstay_store::{Object, Revision, StoreError, Write};
use serde_json::Value;
use std::sync::Arc;

use crate::admission::{self, WriteOptions, metadata};
use crate::habits;
use crate::object;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::verbs::list;

/// Lost races before the caller is told.
const MAX_RACES: usize = 128;

/// Which part of an object a path may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but status (when the kind has that subresource).
    Main,
    /// Only status.
    Status,
    /// Only `spec.finalizers`, of a Namespace.
    Finalize,
}

/// How a change is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    /// What may change.
    pub(crate) part: Part,
    /// dryRun and fieldValidation.
    pub(crate) options: WriteOptions,
    /// The new state must carry the resourceVersion that it was made from.
    pub(crate) needs_revision: bool,
}

/// Carries out a change; `make` gets the current state as clients see it, and may be called again after a lost race.
///
/// # Errors
/// Whatever `make`, admission or the store refuse.
pub(crate) async fn modify(
    call: &Call<'_>,
    change: Change,
    warnings: &mut Vec<String>,
    make: impl Fn(&Value) -> ApiResult<Value>,
) -> ApiResult<Arc<Object>> {
    let about = call.about(call.name());
    let key = call.entry.key(call.namespace(), call.name());
    for race in 0.. {
        // Before the object is read: what another replica has shown may arrive in between.
        let seen = call.server.store().revision();
        let found = call.server.store().get(&key).await.map_err(|error| ApiError::from_store(&error, about))?;
        let current = found.ok_or_else(|| ApiError::not_found(about))?;
        let old = habits::opened(call.server, call.entry, object::parse(&current)?)?;
        let mut made = make(&habits::visible(call.entry, &old))?;
        if race < MAX_RACES && is_ahead(call, &made, seen).await? {
            continue;
        }
        identify(call, change, &mut made, &old)?;
        warnings.clear();
        let new = admit(call, change, made, &old, warnings).await?;
        let vanishes = object::is_deleting(&new) && !object::is_held(&new);
        if object::same_but_revision(&new, &old) && !vanishes {
            return Ok(current);
        }
        let draft = habits::sealed_draft(call.server, call.entry, &new)?;
        if change.options.dry_run {
            let body = draft.finish(current.revision);
            return Ok(Arc::new(Object { key, revision: current.revision, meta: draft.meta, body }));
        }
        if change.part == Part::Main {
            trace::writes(&current.meta.uid);
        }
        let (key, expected) = (key.clone(), current.revision);
        let write =
            if vanishes { Write::Delete { key, draft, expected } } else { Write::Update { key, draft, expected } };
        match call.write(write).await {
            Ok(written) => {
                if vanishes {
                    habits::deleted(call.server, call.entry, &written);
                }
                return Ok(written);
            }
            Err(StoreError::Conflict(_)) if race < MAX_RACES => {}
            Err(error) => return Err(ApiError::from_store(&error, about)),
        }
    }
    Err(ApiError::modified(about))
}

/// Whether it was made from what another replica showed, of which this one had only seen so much, and holds more by now.
async fn is_ahead(call: &Call<'_>, made: &Value, seen: Revision) -> ApiResult<bool> {
    let from = object::text(made, "resourceVersion").parse().map_or(Revision(0), Revision);
    Ok(from > seen && list::reach(call, from).await? > seen)
}

/// Type, namespace, name, uid and resourceVersion of the new state must be those of the object.
fn identify(call: &Call<'_>, change: Change, made: &mut Value, old: &Value) -> ApiResult<()> {
    let about = call.about(call.name());
    admission::check_type(call.entry, made)?;
    // A number here would be taken for nothing said, and pass where the text that was meant would not.
    let wrong = ["name", "namespace", "uid", "resourceVersion"].into_iter().find(|field| {
        let value = &made["metadata"][*field];
        !value.is_null() && !value.is_string()
    });
    if let Some(field) = wrong {
        let error = FieldError::new(format!("metadata.{field}"), Fault::TypeInvalid, "must be a string");
        return Err(ApiError::invalid(about, &[error]));
    }
    admission::check_namespace(call.entry, made, call.namespace())?;
    admission::check_name(made, call.name())?;
    let (uid, known) = (object::text(made, "uid"), object::text(old, "uid"));
    if !uid.is_empty() && uid != known {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {known}");
        return Err(ApiError::conflict(about, why));
    }
    match object::text(made, "resourceVersion") {
        "" if change.needs_revision => {
            let error = FieldError::invalid("metadata.resourceVersion", "0x0", "must be specified for an update");
            Err(ApiError::invalid(about, &[error]))
        }
        "" => Ok(()),
        revision if revision == object::text(old, "resourceVersion") => Ok(()),
        revision if revision.parse::<u64>().is_err() => Err(ApiError::bad_request(format!(
            "metadata.resourceVersion: {revision:?} is not a resourceVersion of this server"
        ))),
        _ => Err(ApiError::modified(about)),
    }
}

/// Puts the new state together from what the path may change, and checks it.
async fn admit(
    call: &Call<'_>,
    change: Change,
    made: Value,
    old: &Value,
    warnings: &mut Vec<String>,
) -> ApiResult<Value> {
    let entry = call.entry;
    let mut new = match change.part {
        Part::Main => main_part(entry.kind.status, made, old),
        Part::Status => with_field(old, made, "status"),
        Part::Finalize => {
            let mut new = old.clone();
            new["spec"]["finalizers"] = made["spec"]["finalizers"].clone();
            new
        }
    };
    habits::restore(entry, &mut new, old);
    let mut errors = admission::schema(entry, &mut new, change.options, warnings)?;
    if change.part == Part::Main {
        metadata::check(&entry.kind, &new, &mut errors);
        errors.extend(new_finalizers(&new, old));
    }
    if errors.is_empty() {
        match change.part {
            Part::Main => {
                habits::complete(call, &mut new, Some(old), &mut errors).await?;
                errors.extend((entry.kind.rules.check)(&new, Some(old)));
            }
            Part::Status => errors.extend((entry.kind.rules.check_status)(&new, old)),
            Part::Finalize => {}
        }
    }
    admission::refuse_any(entry, call.name(), &errors)?;
    if change.part == Part::Main {
        habits::permit(call, &new, Some(old)).await?;
    }
    if entry.has_generation() && object::spec_differs(&new, old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        object::set(&mut new, "generation", generation);
    }
    Ok(new)
}

/// The new state with what only the server sets taken from the old one.
fn main_part(has_status: bool, made: Value, old: &Value) -> Value {
    let mut new = if has_status { with_field(&made, old.clone(), "status") } else { made };
    let kept =
        ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName"];
    for field in kept {
        object::take_from(&mut new, old, field);
    }
    for field in ["managedFields", "selfLink"] {
        object::unset(&mut new, field);
    }
    object::take_from(&mut new, old, "resourceVersion");
    new
}

/// `base` with one top-level field taken from `other`.
fn with_field(base: &Value, mut other: Value, field: &str) -> Value {
    let mut new = base.clone();
    if let Some(fields) = new.as_object_mut() {
        match other.as_object_mut().and_then(|other| other.remove(field)) {
            Some(value) => fields.insert(field.to_owned(), value),
            None => fields.remove(field),
        };
    }
    new
}

/// Once an object is being deleted nothing new may hold it.
fn new_finalizers(new: &Value, old: &Value) -> Option<FieldError> {
    if !object::is_deleting(old) {
        return None;
    }
    let before = object::finalizers(old);
    let added: Vec<&str> = object::finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
    (!added.is_empty()).then(|| {
        FieldError::forbidden(
            "metadata.finalizers",
            format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"),
        )
    })
}
