//! Subresources, and resources that are questions rather than objects.

pub(crate) mod exec;
pub(crate) mod flow;
pub(crate) mod heartbeat;
pub(crate) mod logs;
pub(crate) mod messages;
pub(crate) mod reveal;
pub(crate) mod reviews;
pub(crate) mod token;

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use crate::auth::Identity;
use crate::body::{Body, BodyError};
use crate::catalog::Habit;
use crate::content;
use crate::node;
use crate::request::{ResourcePath, Verb};
use crate::route;
use crate::server::{ApiServer, Call};
use crate::status::{ApiError, ApiResult};
use crate::sub::reviews::Review;

/// Answers a subresource other than `status`.
///
/// # Errors
/// 400 for a `dryRun`, 404 for one that the kind does not have, 405 for a method that it does not have.
pub(crate) async fn subresource<B>(call: &Call<'_>, verb: Verb, body: B) -> ApiResult<Response<Body>>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send,
    B::Error: Into<BodyError>,
{
    let limits = call.server.limits();
    let headers = &call.parts.headers;
    // These either happen or do not; what was asked for on trial must not happen.
    if matches!(verb, Verb::Create | Verb::Update) && call.query.all("dryRun").any(|value| !value.is_empty()) {
        let name = call.path.subresource.as_deref().unwrap_or("");
        return Err(ApiError::bad_request(format!("dryRun: the subresource {name} does not support it")));
    }
    match (call.entry.habit, call.path.subresource.as_deref().unwrap_or(""), verb) {
        (Habit::Session, "messages", Verb::Get) => messages::read(call).await,
        (Habit::Session, "messages", Verb::Create) => {
            messages::append(call, content::read(headers, body, limits.messages_body).await?).await
        }
        (Habit::Session, "heartbeat", Verb::Get) => heartbeat::read(call).await,
        (Habit::Session, "heartbeat", Verb::Update) => {
            heartbeat::write(call, content::read(headers, body, limits.body).await?).await
        }
        (Habit::Pod, "log", Verb::Get) => logs::read(call).await,
        (Habit::Pod, "exec", Verb::Create) => exec::open(call).await,
        (Habit::Node, "link", Verb::Get) => node::link::open(call),
        (Habit::Credential, "reveal", Verb::Get) => reveal::read(call).await,
        (Habit::ServiceAccount, "token", Verb::Create) => {
            token::create(call, content::read(headers, body, limits.body).await?).await
        }
        (Habit::Session, "messages" | "heartbeat", _)
        | (Habit::Pod, "log" | "exec", _)
        | (Habit::Node, "link", _)
        | (Habit::Credential, "reveal", _)
        | (Habit::ServiceAccount, "token", _) => Err(ApiError::method_not_allowed()),
        _ => Err(ApiError::no_such_path()),
    }
}

/// Answers resources that no object stands for.
///
/// # Errors
/// 404 for those that do not exist, 403, 405.
pub(crate) async fn virtual_resource<B>(
    server: &ApiServer,
    parts: &Parts,
    path: &ResourcePath<'_>,
    verb: Verb,
    identity: &Identity,
    body: B,
) -> ApiResult<Response<Body>>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send,
    B::Error: Into<BodyError>,
{
    let place = (&*path.group, &*path.version, &*path.plural);
    let review = Review::of(place.0, place.1, place.2).filter(|_| path.namespace.is_none());
    let certificate = place == node::certificate::PLACE && path.namespace.is_none() && path.subresource.is_none();
    if review.is_none() && !certificate {
        return Err(ApiError::no_such_path());
    }
    if verb != Verb::Create || path.name.is_some() {
        return Err(ApiError::method_not_allowed());
    }
    if !server.access().allows(identity, &route::attributes_of(path, verb)).await? {
        let text = format!("User {:?} cannot create {}.{}", identity.user(), path.plural, path.group);
        return Err(ApiError::new(403, "Forbidden", text));
    }
    let body = content::read(&parts.headers, body, server.limits().body).await?;
    match review {
        Some(review) => reviews::answer(server, parts, review, identity, body).await,
        None => node::certificate::create(server, parts, identity, body).await,
    }
}
