//! The upgrade to a WebSocket, and which of Kubernetes' protocols is spoken over it.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::upgrade::OnUpgrade;

use crate::body::Body;
use crate::status::{ApiError, ApiResult};

/// What a key is answered with (RFC 6455).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What is said over the WebSocket: messages that begin with the number of their channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// The error channel carries a Status.
    V4,
    /// And a channel can be closed.
    V5,
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4.channel.k8s.io",
            Self::V5 => "v5.channel.k8s.io",
        }
    }
}

/// An upgrade that both sides agree upon.
pub(super) struct Shake {
    pub(super) upgrade: OnUpgrade,
    pub(super) protocol: Protocol,
    pub(super) response: Response<Body>,
}

/// Agrees to a WebSocket.
///
/// # Errors
/// 400 for a request that asks for none, or for nothing that we speak.
pub(super) fn shake(parts: &Parts) -> ApiResult<Shake> {
    let headers = &parts.headers;
    if has_word(headers, &UPGRADE, "SPDY/3.1") {
        return Err(ApiError::bad_request(
            "Upgrade: SPDY/3.1 is not spoken here, only websocket: kubectl 1.30 or newer is needed, without \
             KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false",
        ));
    }
    if !has_word(headers, &UPGRADE, "websocket") || !has_word(headers, &CONNECTION, "upgrade") {
        return Err(ApiError::bad_request("Upgrade: websocket is missing; this is no plain request"));
    }
    if parts.method != Method::GET || headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(ApiError::bad_request("Sec-WebSocket-Version: a WebSocket is asked for by GET, in version 13"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let key = key.ok_or_else(|| ApiError::bad_request("Sec-WebSocket-Key: is missing"))?;
    let protocol =
        [Protocol::V5, Protocol::V4].into_iter().find(|one| has_word(headers, &SEC_WEBSOCKET_PROTOCOL, one.name()));
    let protocol = protocol.ok_or_else(|| {
        ApiError::bad_request("Sec-WebSocket-Protocol: v5.channel.k8s.io and v4.channel.k8s.io are spoken here")
    })?;
    let upgrade = parts.extensions.get::<OnUpgrade>().cloned();
    let upgrade = upgrade.ok_or_else(|| ApiError::bad_request("this connection cannot be upgraded: use HTTP/1.1"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = HeaderValue::from_str(&accept_of(key)).map_err(ApiError::internal)?;
    for (name, value) in [
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
        (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol.name())),
    ] {
        response.headers_mut().insert(name, value);
    }
    Ok(Shake { upgrade, protocol, response })
}

fn accept_of(key: &[u8]) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat()))
}

/// Whether a list in a header has this word.
fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_rfc_has_it() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
