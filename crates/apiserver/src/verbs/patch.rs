//! `update` and `patch`: how the new state of an object is made.

use bytes::Bytes;
use http::{Response, StatusCode};
use json_patch::{PatchOperation, jsonptr::Pointer};
use serde_json::Value;

use crate::admission::{self, WriteOptions};
use crate::body::Body;
use crate::content::{self, Media};
use crate::respond;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::verbs::modify::{self, Change, Part};
use crate::verbs::read;

/// Operations of one JSON patch.
const MAX_OPERATIONS: usize = 1_000;
/// Bytes that the `copy` operations of one JSON patch may multiply.
const MAX_COPIED: usize = 3 << 20;

/// Answers `PUT`.
///
/// # Errors
/// Whatever admission or the store refuse.
pub(crate) async fn update(call: &Call<'_>, part: Part, body: Bytes) -> ApiResult<Response<Body>> {
    let options = WriteOptions::of(call.query)?;
    let mut warnings = Vec::new();
    let parsed = content::parse_object(&call.parts.headers, &body)?;
    let value = admission::duplicates(parsed, options, &mut warnings)?;
    // Upstream allows blind updates of its own kinds, and of no custom one.
    let change = Change { part, options, needs_revision: !call.entry.kind.core };
    let duplicates = std::mem::take(&mut warnings);
    let written = modify::modify(call, change, &mut warnings, |_| Ok(value.clone())).await?;
    warnings.extend(duplicates);
    let mut response = read::object_response(call, StatusCode::OK, &written).await?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

/// Answers `PATCH`.
///
/// # Errors
/// 415 for patch types that this server does not have, 400 and 422 for patches that make no sense.
pub(crate) async fn patch(call: &Call<'_>, part: Part, body: Bytes) -> ApiResult<Response<Body>> {
    let options = WriteOptions::of(call.query)?;
    let mut warnings = Vec::new();
    let parsed = parse(call, &body, options)?;
    let change = Change { part, options, needs_revision: false };
    let written = modify::modify(call, change, &mut warnings, |old| parsed.apply(old)).await?;
    let mut response = read::object_response(call, StatusCode::OK, &written).await?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

enum Patch {
    Merge(Value),
    Operations(Vec<PatchOperation>),
}

fn parse(call: &Call<'_>, body: &[u8], options: WriteOptions) -> ApiResult<Patch> {
    match Media::of(&call.parts.headers) {
        Media::MergePatch => {
            let value = admission::duplicates(content::parse_json(body)?, options, &mut Vec::new())?;
            if !value.is_object() {
                return Err(ApiError::bad_request("a merge patch must be a JSON object"));
            }
            Ok(Patch::Merge(value))
        }
        Media::JsonPatch => {
            let value = content::parse_json(body)?.value;
            let operations: Vec<PatchOperation> = serde_json::from_value(value)
                .map_err(|error| ApiError::bad_request(format!("the body is not a valid JSON patch: {error}")))?;
            if operations.len() > MAX_OPERATIONS {
                return Err(ApiError::too_large(format!(
                    "the patch has {} operations, more than the limit of {MAX_OPERATIONS}",
                    operations.len()
                )));
            }
            Ok(Patch::Operations(operations))
        }
        other => Err(unsupported(other)),
    }
}

fn unsupported(media: Media) -> ApiError {
    let why = match media {
        Media::StrategicPatch => {
            "strategic merge patch is not supported by this server yet: use kubectl replace, --type=merge, or "
        }
        Media::ApplyPatch => "server-side apply is not supported by this server yet: use client-side apply, or ",
        _ => "the body of the request was in an unknown format: ",
    };
    ApiError::unsupported_media_type(format!(
        "{why}one of the accepted media types: application/merge-patch+json, application/json-patch+json"
    ))
}

impl Patch {
    fn apply(&self, old: &Value) -> ApiResult<Value> {
        let mut new = old.clone();
        match self {
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            Self::Operations(operations) => apply_operations(&mut new, operations)?,
        }
        if content::deeper_than(&new, content::MAX_DEPTH) {
            return Err(ApiError::bad_request("the patched object is nested too deeply"));
        }
        Ok(new)
    }
}

fn apply_operations(value: &mut Value, operations: &[PatchOperation]) -> ApiResult<()> {
    let mut copied = 0;
    for (at, operation) in operations.iter().enumerate() {
        match operation {
            // RFC 6902 fails this; Kubernetes passes it, and kube-rs builds its finalizers on that.
            PatchOperation::Test(test) if test.value.is_null() && !exists(value, &test.path) => continue,
            PatchOperation::Copy(copy) => {
                copied += size_at(value, &copy.from);
                if copied > MAX_COPIED {
                    return Err(ApiError::too_large("the patch copies more than the limit allows"));
                }
            }
            _ => {}
        }
        json_patch::patch(value, std::slice::from_ref(operation))
            .map_err(|error| ApiError::unprocessable(format!("operation {at} of the JSON patch: {}", error.kind)))?;
    }
    Ok(())
}

fn exists(value: &Value, path: &Pointer) -> bool {
    value.pointer(path.as_str()).is_some()
}

fn size_at(value: &Value, path: &Pointer) -> usize {
    value.pointer(path.as_str()).map_or(0, |found| found.to_string().len())
}
