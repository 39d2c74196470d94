//! Subresources, and resources that are questions rather than objects.

pub(crate) mod heartbeat;
pub(crate) mod messages;

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use crate::auth::Identity;
use crate::body::{Body, BodyError};
use crate::catalog::Habit;
use crate::content;
use crate::request::{ResourcePath, Verb};
use crate::server::{ApiServer, Call};
use crate::status::{ApiError, ApiResult};

/// Answers a subresource other than `status`.
///
/// # Errors
/// 404 for one that the kind does not have, 405 for a method that it does not have.
pub(crate) async fn subresource<B>(call: &Call<'_>, verb: Verb, body: B) -> ApiResult<Response<Body>>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send,
    B::Error: Into<BodyError>,
{
    let limits = call.server.limits();
    let headers = &call.parts.headers;
    match (call.entry.habit, call.path.subresource.as_deref().unwrap_or(""), verb) {
        (Habit::Session, "messages", Verb::Get) => messages::read(call).await,
        (Habit::Session, "messages", Verb::Create) => {
            messages::append(call, content::read(headers, body, limits.messages_body).await?).await
        }
        (Habit::Session, "heartbeat", Verb::Get) => heartbeat::read(call).await,
        (Habit::Session, "heartbeat", Verb::Update) => {
            heartbeat::write(call, content::read(headers, body, limits.body).await?).await
        }
        (Habit::Session, "messages" | "heartbeat", _) => Err(ApiError::method_not_allowed()),
        _ => Err(ApiError::no_such_path()),
    }
}

/// Answers resources that no object stands for.
///
/// # Errors
/// 404 for those that do not exist.
pub(crate) async fn virtual_resource<B>(
    _server: &ApiServer,
    _parts: &Parts,
    _path: &ResourcePath<'_>,
    _verb: Verb,
    _identity: &Identity,
    _body: B,
) -> ApiResult<Response<Body>>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send,
    B::Error: Into<BodyError>,
{
    Err(ApiError::no_such_path())
}
