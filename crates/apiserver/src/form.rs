//! In which form a caller wants objects: as they are, as a Table, or only their metadata.

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use mainstay_store::Revision;

use crate::body::Body;
use crate::catalog::Entry;
use crate::respond;
use crate::server::Call;
use crate::status::ApiResult;
use crate::verbs::list::{self, Found};

/// The form that an `Accept` header asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form;

impl Form {
    /// What the caller accepts.
    ///
    /// # Errors
    /// 406 when that is nothing that we have.
    pub(crate) fn of(_call: &Call<'_>) -> ApiResult<Self> {
        Ok(Self)
    }

    /// One object.
    ///
    /// # Errors
    /// 500 when it cannot be read.
    pub(crate) fn object(self, _call: &Call<'_>, code: StatusCode, bytes: Bytes) -> ApiResult<Response<Body>> {
        Ok(respond::json(code, bytes))
    }

    /// Whether stored bytes are what the caller wants.
    pub(crate) const fn is_plain(self) -> bool {
        true
    }

    /// A watch event.
    ///
    /// # Errors
    /// 500 when the object cannot be read.
    pub(crate) fn event(self, _entry: &Entry, word: &str, body: Bytes) -> ApiResult<Bytes> {
        let mut frame = BytesMut::with_capacity(body.len() + word.len() + 24);
        frame.extend_from_slice(b"{\"type\":\"");
        frame.extend_from_slice(word.as_bytes());
        frame.extend_from_slice(b"\",\"object\":");
        frame.extend_from_slice(&body);
        frame.extend_from_slice(b"}\n");
        Ok(frame.freeze())
    }

    /// A bookmark; `initial` marks the end of the initial events.
    pub(crate) fn bookmark(self, entry: &Entry, revision: Revision, initial: bool) -> Bytes {
        let annotations = if initial { ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}" } else { "" };
        let (kind, version) = (entry.kind.kind, &entry.api_version);
        format!(
            "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":\
             {{\"resourceVersion\":\"{revision}\"{annotations}}}}}}}\n"
        )
        .into()
    }

    /// A list.
    ///
    /// # Errors
    /// 500 when an object cannot be read.
    pub(crate) async fn list(self, call: &Call<'_>, found: &Found) -> ApiResult<Response<Body>> {
        list::as_json(call, found).await
    }
}
