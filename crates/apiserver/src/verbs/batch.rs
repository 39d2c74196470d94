//! `create` of many operations in one request: an `OperationList` instead of an `Operation`.
//!
//! Each item is created, or refused, on its own; all of them go to the store at once and so share its commits. The answer
//! is a list with an item for each: the object as it was created, or the `Status` that says why it was not.

use futures::future::join_all;
use http::{Response, StatusCode};
use mainstay_api::operation::MOST_BATCH;
use mainstay_store::Requires;
use serde_json::Value;

use crate::admission::WriteOptions;
use crate::body::Body;
use crate::catalog::{Entry, Habit};
use crate::respond;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::verbs::create::{self, New};

/// Whether this is a list of what the entry's collection holds.
pub(crate) fn is_batch(entry: &Entry, value: &Value) -> bool {
    let kind = value["kind"].as_str().and_then(|kind| kind.strip_suffix("List"));
    entry.habit == Habit::Operation && kind == Some(entry.kind.kind)
}

/// Answers `POST` of a list: 201 when all were created, 200 when some were not.
///
/// # Errors
/// For what concerns all of them: a list that is none, or too long, and a namespace that is gone.
pub(crate) async fn create(call: &Call<'_>, value: Value, options: WriteOptions) -> ApiResult<Response<Body>> {
    let items = items(call, value)?;
    let within = create::place(call, "").await?;
    let mut warnings = Vec::new();
    let mut admitted = Vec::with_capacity(items.len());
    for item in items {
        admitted.push(admit(call, item, options, &mut warnings).await);
    }
    let made = join_all(admitted.into_iter().map(|new| store(call, new, options, within.clone()))).await;
    let code = if made.iter().all(Result::is_ok) { StatusCode::CREATED } else { StatusCode::OK };
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{}\"}},\"items\":[",
        call.entry.kind.kind,
        call.entry.api_version,
        call.server.store().revision()
    );
    let mut body = head.into_bytes();
    for (at, item) in made.into_iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        match item {
            Ok(bytes) => body.extend_from_slice(&bytes),
            Err(error) => body.extend_from_slice(&error.to_json()),
        }
    }
    body.extend_from_slice(b"]}");
    let mut response = respond::json(code, body);
    respond::warn(&mut response, &warnings);
    Ok(response)
}

fn items(call: &Call<'_>, mut value: Value) -> ApiResult<Vec<Value>> {
    let (found, expected) = (&value["apiVersion"], call.entry.api_version.as_str());
    if !found.is_null() && found != expected {
        return Err(ApiError::bad_request(format!(
            "the apiVersion in the data ({found}) does not match the expected apiVersion ({expected:?})"
        )));
    }
    let Value::Array(items) = value["items"].take() else {
        return Err(ApiError::bad_request("items must be a list of the objects to create"));
    };
    if items.len() > MOST_BATCH {
        let count = items.len();
        return Err(ApiError::too_large(format!("{count} items are more than one request creates ({MOST_BATCH})")));
    }
    Ok(items)
}

async fn admit(call: &Call<'_>, item: Value, options: WriteOptions, warnings: &mut Vec<String>) -> ApiResult<New> {
    let mut new = create::identify(call, item)?;
    create::complete(call, &mut new.value, options, warnings).await?;
    Ok(new)
}

async fn store(
    call: &Call<'_>,
    new: ApiResult<New>,
    options: WriteOptions,
    within: Option<Requires>,
) -> ApiResult<bytes::Bytes> {
    let new = new?;
    let created = if options.dry_run {
        create::pretend(call, &new.value).await?
    } else {
        create::store(call, new, within, None).await?
    };
    // As it was created: nothing is known of it yet that its object does not say.
    Ok(created.body.clone())
}
