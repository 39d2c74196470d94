//! `sessions/NAME/messages`: append exactly once per id, read after a number, follow.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::header::HeaderValue;
use http::{Response, StatusCode};
use mainstay_runtime::Timestamp;
use mainstay_store::{Append, Message, NewMessage, Object, Retention, RunRow, Sender, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::activity::Seen;
use crate::body::Body;
use crate::content;
use crate::gate::Permit;
use crate::holder::Holder;
use crate::leash::leashed;
use crate::object;
use crate::request::Verb;
use crate::respond;
use crate::server::{ApiServer, Call};
use crate::status::{ApiError, ApiResult};
use crate::sub::heartbeat;
use crate::verbs::read as objects;

/// Messages of one append.
const MAX_MESSAGES: usize = 256;
/// Characters of a message's id.
const MAX_ID: usize = 128;
/// Bytes of one message.
const MAX_MESSAGE: usize = 1 << 20;
/// Messages read from the store in one go.
const PAGE: usize = 256;
/// An empty line goes out so often while nothing happens, so that both sides notice a dead peer.
const IDLE_LINE: Duration = Duration::from_secs(15);
/// What the supervisor may say; everyone else speaks as `user`.
const OWN_TYPES: [&str; 3] = ["agent", "event", "system"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Incoming {
    messages: Vec<IncomingMessage>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IncomingMessage {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    run: Option<u64>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    data: Option<Value>,
}

/// A message as it is stored: what readers get, without its number.
#[derive(Debug, Serialize)]
struct StoredMessage<'a> {
    id: &'a str,
    time: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
}

/// Answers `POST`.
///
/// # Errors
/// 400 and 422 for messages that make no sense, 403 for a type that the caller may not send, 429 for too much at once.
pub(crate) async fn append(call: &Call<'_>, body: Bytes) -> ApiResult<Response<Body>> {
    let session = objects::find(call).await?;
    let body = content::parse_fields(&call.parts.headers, &body, "a list of messages")?;
    let incoming = Incoming::deserialize(body)
        .map_err(|error| ApiError::bad_request(format!("the body is not a list of messages: {error}")))?;
    let sender = sender(call, &session);
    check(call, sender, &incoming)?;
    let now = call.server.clock().now();
    let time = milliseconds(now);
    let messages = incoming.messages.iter().map(|message| stored(message, &time)).collect::<ApiResult<Vec<_>>>()?;
    let uid = &session.meta.uid;
    let bytes = messages.iter().map(|message| message.body.len()).sum();
    call.server.flow().take(uid, sender, bytes).map_err(too_fast)?;
    let limits = call.server.limits();
    let keep = Retention { messages: limits.messages_kept, bytes: limits.messages_bytes };
    let append = Append { session: uid.clone(), sender, messages, keep };
    let given = call.server.store().append(append).await;
    let given = given.map_err(|error| ApiError::from_store(&error, call.about(call.name())))?;
    let last = given.iter().map(|one| one.number).max().unwrap_or(0);
    if given.iter().any(|one| !one.duplicate) {
        call.server.activity().note(&session, Seen { last_message: last, activity_ms: now.as_millisecond() });
    }
    let answers: Vec<Value> = incoming
        .messages
        .iter()
        .zip(&given)
        .map(|(message, one)| serde_json::json!({"id": message.id, "number": one.number, "duplicate": one.duplicate}))
        .collect();
    let answer = serde_json::json!({"messages": answers, "last": last});
    Ok(respond::json(StatusCode::OK, object::to_bytes(&answer)?))
}

/// In whose name space the caller's ids are: nobody chooses that by how an id looks.
fn sender(call: &Call<'_>, session: &Object) -> Sender {
    if call.identity.session().is_some_and(|bound| *bound.uid == *session.meta.uid) {
        Sender::Agent
    } else if call.identity.is_platform() {
        Sender::Platform
    } else {
        Sender::User
    }
}

fn too_fast(wait: Duration) -> ApiError {
    let whole = wait + Duration::from_millis(999);
    ApiError::too_many_requests("the session takes messages only so fast; send this again later").retry_after(whole)
}

fn check(call: &Call<'_>, sender: Sender, incoming: &Incoming) -> ApiResult<()> {
    if incoming.messages.is_empty() || incoming.messages.len() > MAX_MESSAGES {
        return Err(ApiError::bad_request(format!(
            "messages: {} given; send 1 to {MAX_MESSAGES} at a time",
            incoming.messages.len()
        )));
    }
    let own = sender == Sender::Agent;
    for (at, message) in incoming.messages.iter().enumerate() {
        let length = message.id.chars().count();
        if length == 0 || length > MAX_ID || message.id.chars().any(char::is_control) {
            return Err(ApiError::bad_request(format!(
                "messages[{at}].id: must have 1 to {MAX_ID} characters, none of them a control character"
            )));
        }
        let kind = message.kind.as_str();
        if !is_type(kind) {
            return Err(ApiError::bad_request(format!("messages[{at}].type: {}", unknown_type(kind))));
        }
        if own == (kind == "user") {
            let why = if own {
                "a session's own token does not speak for its users"
            } else {
                "only the session itself sends these"
            };
            return Err(ApiError::forbidden(call.about(call.name()), format_args!("messages of type {kind:?}: {why}")));
        }
    }
    Ok(())
}

fn is_type(kind: &str) -> bool {
    kind == "user" || OWN_TYPES.contains(&kind)
}

fn unknown_type(kind: &str) -> String {
    format!("Unsupported value: {kind:?}: supported values: \"agent\", \"event\", \"system\", \"user\"")
}

fn known_type(kind: &str) -> ApiResult<String> {
    if is_type(kind) {
        Ok(kind.to_owned())
    } else {
        Err(ApiError::bad_request(format!("types: {}", unknown_type(kind))))
    }
}

fn stored(message: &IncomingMessage, time: &str) -> ApiResult<NewMessage> {
    let body = serde_json::to_vec(&StoredMessage {
        id: &message.id,
        time,
        kind: &message.kind,
        run: message.run,
        text: message.text.as_deref(),
        data: message.data.as_ref(),
    })
    .map_err(ApiError::internal)?;
    if body.len() > MAX_MESSAGE {
        return Err(ApiError::too_large(format!(
            "message {:?} is larger than the limit of {MAX_MESSAGE} bytes",
            message.id
        )));
    }
    Ok(NewMessage { id: message.id.as_str().into(), kind: message.kind.as_str().into(), body: body.into() })
}

/// RFC 3339 with milliseconds.
pub(crate) fn milliseconds(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// Answers `GET`.
///
/// # Errors
/// 400 for parameters that make no sense, 404, 429.
pub(crate) async fn read(call: &Call<'_>) -> ApiResult<Response<Body>> {
    let session = objects::find(call).await?;
    let query = call.query;
    let follow = query.flag("follow")?;
    let types =
        query.get("types").map(|text| text.split(',').map(known_type).collect::<ApiResult<Vec<_>>>()).transpose()?;
    let life = query.number::<u64>("timeoutSeconds")?.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let most = call.server.limits().watch_life;
    let deadline = Instant::now() + life.map_or(most, |life| life.min(most));
    let reader = Reader {
        server: call.server.clone(),
        uid: session.meta.uid.clone(),
        after: query.number("after")?.unwrap_or(0),
        left: query.number("limit")?.filter(|limit| *limit > 0),
        follow,
        types,
        redelivered: heartbeat::redelivered(call, &session).await?,
        deadline,
        counter: if follow { Some(counter(call, &session).await?) } else { None },
        stop: call.server.tasks().stopping(),
        key: session.key.clone(),
        ended: false,
        _permit: if follow { Some(call.server.gate().enter(call.identity)?) } else { None },
    };
    let lines = stream::unfold(reader, |mut reader| async move { reader.next().await.map(|chunk| (chunk, reader)) });
    let body = if follow {
        let over = Holder::of(call, Verb::Get).over(call.server.clone(), deadline + IDLE_LINE);
        Body::stream(leashed(call.server.tasks(), lines, over))
    } else {
        Body::stream(lines)
    };
    Ok(respond::with_type(StatusCode::OK, HeaderValue::from_static("application/x-ndjson"), body))
}

async fn counter(call: &Call<'_>, session: &Object) -> ApiResult<tokio::sync::watch::Receiver<u64>> {
    let counter = call.server.store().message_counter(&session.meta.uid).await;
    counter.map_err(|error| ApiError::from_store(&error, call.about(call.name())))
}

/// One reader of a session's messages.
struct Reader {
    server: ApiServer,
    uid: Arc<str>,
    key: mainstay_store::Key,
    after: u64,
    left: Option<u64>,
    follow: bool,
    types: Option<Vec<String>>,
    redelivered: Option<heartbeat::Window>,
    deadline: Instant,
    counter: Option<tokio::sync::watch::Receiver<u64>>,
    stop: CancellationToken,
    ended: bool,
    _permit: Option<Permit>,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<Bytes, crate::body::BodyError>> {
        while !self.ended {
            // Marked as seen before the look, so that nothing appended after it is missed.
            if let Some(counter) = &mut self.counter {
                counter.mark_unchanged();
            }
            let page = match self.server.store().messages(&self.uid, self.after, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(Box::new(error)));
                }
            };
            let mut out = BytesMut::new();
            if let Some((from, to)) = page.gap {
                out.extend_from_slice(format!("{{\"gap\":{{\"from\":{from},\"to\":{to}}}}}\n").as_bytes());
                self.after = to;
            }
            for message in &page.messages {
                self.push(message, &mut out);
            }
            let more = self.after < page.last && !page.messages.is_empty();
            if !out.is_empty() {
                self.ended = self.ended || !(more || self.follow);
                return Some(Ok(out.freeze()));
            }
            if more {
                continue;
            }
            if !self.follow || !self.wait().await {
                return None;
            }
            if Instant::now() < self.deadline
                && self.counter.as_ref().is_some_and(|counter| !counter.has_changed().unwrap_or(false))
            {
                return Some(Ok(Bytes::from_static(b"\n")));
            }
        }
        None
    }

    fn push(&mut self, message: &Message, out: &mut BytesMut) {
        if self.left == Some(0) {
            self.ended = true;
            return;
        }
        self.after = message.number;
        if self.types.as_ref().is_some_and(|types| !types.iter().any(|kind| **kind == *message.kind)) {
            return;
        }
        self.left = self.left.map(|left| left - 1);
        self.ended = self.left == Some(0);
        let again = *message.kind == *"user" && self.redelivered.is_some_and(|window| window.holds(message.number));
        match message.body.strip_suffix(b"}") {
            Some(open) if again => {
                out.extend_from_slice(open);
                out.extend_from_slice(b",\"redelivered\":true}");
            }
            _ => out.extend_from_slice(&message.body),
        }
        out.extend_from_slice(b"\n");
    }

    /// Waits for more; `false` when the stream is over.
    async fn wait(&mut self) -> bool {
        let Some(counter) = &mut self.counter else { return false };
        let until = self.deadline.min(Instant::now() + IDLE_LINE);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return false,
            changed = counter.changed() => {
                if changed.is_err() {
                    return false;
                }
                counter.mark_changed();
            }
            () = tokio::time::sleep_until(until) => {}
        }
        Instant::now() < self.deadline && self.still_there().await
    }

    /// A session that was deleted has no more messages.
    async fn still_there(&self) -> bool {
        match self.server.store().get(&self.key).await {
            Ok(found) => found.is_some_and(|found| found.meta.uid == self.uid),
            Err(StoreError::Closed) => false,
            Err(_) => true,
        }
    }
}

/// The session's row, or an empty one.
///
/// # Errors
/// What the store refuses.
pub(crate) async fn row(call: &Call<'_>, session: &str) -> ApiResult<RunRow> {
    let row = call.server.store().run_row(session).await;
    Ok(row.map_err(|error| ApiError::from_store(&error, call.about(call.name())))?.unwrap_or_default())
}
