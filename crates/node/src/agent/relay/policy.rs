//! What a sandbox may ask for: pure.

use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use crate::agent::token::Claims;
use crate::launch::{PodRef, SessionRef};

/// The largest body: a batch of messages, with room for its framing.
pub(super) const BODY_LIMIT: usize = (4 << 20) + (64 << 10);

/// What goes inwards, from the sandbox to the API.
const REQUEST_HEADERS: [HeaderName; 3] = [AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT];
/// What goes outwards.
const RESPONSE_HEADERS: [HeaderName; 4] = [header::CONTENT_TYPE, CONTENT_LENGTH, header::RETRY_AFTER, header::DATE];

/// Whose relay it is.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    session: SessionRef,
    pod_uid: String,
    path: String,
}

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// A heartbeat of the sandbox: looked into.
    Heartbeat,
    /// Anything else that is allowed: passed on as it is.
    Other,
}

/// Why a request is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) StatusCode, pub(super) &'static str);

impl Subject {
    /// The relay of this Pod.
    pub(crate) fn new(pod: &PodRef, session: &SessionRef) -> Self {
        let path = format!("/apis/mainstay.dev/v1alpha1/namespaces/{}/sessions/{}", pod.namespace, session.name);
        Self { session: session.clone(), pod_uid: pod.uid.clone(), path }
    }

    /// Whether a request may pass. Paths are compared as they are: nothing is decoded or resolved, so nothing can be
    /// written in a way that the API reads differently.
    pub(super) fn judge(&self, parts: &Parts) -> Result<Request, Refusal> {
        let (get, post, put) = (parts.method == Method::GET, parts.method == Method::POST, parts.method == Method::PUT);
        let request = match parts.uri.path().strip_prefix(self.path.as_str()) {
            Some("/heartbeat") if put => Request::Heartbeat,
            Some("" | "/heartbeat") if get => Request::Other,
            Some("/messages") if get || post => Request::Other,
            _ => return Err(Refusal(StatusCode::FORBIDDEN, "a sandbox reaches its own session only")),
        };
        self.check_token(&parts.headers)?;
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > BODY_LIMIT) {
            return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"));
        }
        Ok(request)
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let unauthorized = Refusal(StatusCode::UNAUTHORIZED, "a session token is required");
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return Err(unauthorized) };
        let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).ok_or(unauthorized)?;
        let claims = Claims::read(token).ok_or(unauthorized)?;
        if claims.session() == Some(self.session.uid.as_str()) {
            return Ok(());
        }
        Err(Refusal(StatusCode::FORBIDDEN, "the token is another session's"))
    }

    /// Whether a heartbeat speaks for this very run.
    pub(super) fn is_own_heartbeat(&self, body: &[u8]) -> bool {
        #[derive(serde::Deserialize)]
        struct Heartbeat {
            run: u64,
            #[serde(rename = "podUID")]
            pod_uid: String,
        }
        serde_json::from_slice::<Heartbeat>(body)
            .is_ok_and(|heartbeat| heartbeat.run == self.session.run && heartbeat.pod_uid == self.pod_uid)
    }
}

/// The headers that go inwards.
pub(super) fn inward(headers: &HeaderMap) -> HeaderMap {
    keep(headers, &REQUEST_HEADERS)
}

/// The headers that go outwards.
pub(super) fn outward(headers: &HeaderMap) -> HeaderMap {
    keep(headers, &RESPONSE_HEADERS)
}

fn keep(headers: &HeaderMap, allowed: &[HeaderName]) -> HeaderMap {
    let held = allowed.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    held.collect()
}
