//! `pods/NAME/log`: read from the node agent.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http::header::HeaderValue;
use http::{Response, StatusCode};
use mainstay_runtime::Timestamp;
use mainstay_runtime::failure::chain_of;
use serde_json::Value;
use tokio::time::Instant;

use crate::body::{Body, BodyError};
use crate::holder::Holder;
use crate::leash::leashed;
use crate::nodelink::{LinkError, LogOptions, NodeLink};
use crate::object;
use crate::request::Verb;
use crate::respond;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::verbs::read as objects;

/// Answers `GET`.
///
/// # Errors
/// 400 for parameters that make no sense and for a sandbox that has not started, 404, 503 without a node agent.
pub(crate) async fn read(call: &Call<'_>) -> ApiResult<Response<Body>> {
    let options = options(call)?;
    let follow = options.follow;
    let stored = objects::find(call).await?;
    let pod = object::parse(&stored)?;
    let container = container(call, &pod)?;
    let link = link(call, &pod, &container)?;
    let permit = if follow { Some(call.server.gate().enter(call.identity)?) } else { None };
    let log = link.logs(&stored.meta.uid, options).await.map_err(|error| failure(call, &container, &error))?;
    let bytes = log.map(move |chunk| {
        let _held = &permit;
        chunk.map_err(BodyError::from)
    });
    let body = if follow {
        let until = Instant::now() + call.server.limits().watch_life;
        let over = Holder::of(call, Verb::Get).over(call.server.clone(), until);
        Body::stream(leashed(call.server.tasks(), bytes, over))
    } else {
        // Its end says that it is whole: a server that stops finishes it, or breaks the connection.
        Body::stream(bytes)
    };
    let media = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(respond::with_type(StatusCode::OK, media, body))
}

/// The way to the agent of the Pod's node.
fn link(call: &Call<'_>, pod: &Value, container: &str) -> ApiResult<Arc<dyn NodeLink>> {
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(failure(call, container, &LinkError::NotStarted));
    }
    call.server.links().get(node).ok_or_else(|| failure(call, container, &LinkError::Away(node.to_owned())))
}

fn options(call: &Call<'_>) -> ApiResult<LogOptions> {
    let query = call.query;
    if query.flag("previous")? {
        return Err(ApiError::bad_request("previous: a Pod of this server runs once; there is no earlier log"));
    }
    if query.get("stream").is_some_and(|stream| stream != "All") {
        return Err(ApiError::bad_request("stream: the streams of a log are not kept apart; leave it out"));
    }
    let since = match (query.number::<u64>("sinceSeconds")?, query.get("sinceTime")) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request("at most one of sinceTime or sinceSeconds may be specified"));
        }
        (Some(seconds), None) => {
            let now = call.server.clock().now();
            Some(now.checked_sub(Duration::from_secs(seconds)).unwrap_or(Timestamp::UNIX_EPOCH))
        }
        (None, Some(text)) => Some(
            text.parse()
                .map_err(|_| ApiError::bad_request(format!("sinceTime: {text:?} is not a time of RFC 3339")))?,
        ),
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: query.flag("follow")?,
        tail_lines: query.number("tailLines")?,
        since,
        timestamps: query.flag("timestamps")?,
        limit_bytes: query.number("limitBytes")?,
    })
}

/// The container that is meant.
///
/// # Errors
/// 400 for one that the Pod does not have.
pub(super) fn container(call: &Call<'_>, pod: &Value) -> ApiResult<String> {
    let mut names = pod["spec"]["containers"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
    let found = match call.query.get("container") {
        Some(asked) => names
            .find(|name| *name == asked)
            .ok_or_else(|| ApiError::bad_request(format!("container {asked} is not valid for pod {}", call.name())))?,
        None => names.next().unwrap_or_default(),
    };
    Ok(found.to_owned())
}

fn failure(call: &Call<'_>, container: &str, error: &LinkError) -> ApiError {
    match error {
        LinkError::NoSuchLog => ApiError::new(404, "NotFound", format!("pod {:?}: {error}", call.name())),
        LinkError::NotStarted => ApiError::bad_request(format!(
            "container {container:?} in pod {:?} is waiting to start: ContainerCreating",
            call.name()
        )),
        LinkError::Away(_) => {
            ApiError::unavailable(format!("the log of pod {:?} cannot be read: {error}", call.name()))
        }
        LinkError::Io(_) | LinkError::NotRunning | LinkError::TooMany | LinkError::Unsupported => {
            tracing::error!(pod = call.name(), error = chain_of(error), "a log cannot be read");
            ApiError::internal(error)
        }
    }
}
