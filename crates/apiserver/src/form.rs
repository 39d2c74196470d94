//! In which form a caller wants objects: as they are, as a Table, or only their metadata.

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use mainstay_runtime::Timestamp;
use mainstay_store::Revision;

use crate::body::Body;
use crate::catalog::Entry;
use crate::respond;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};
use crate::table::{self, IncludeObject, ListMeta, Metadata, Table};
use crate::verbs::list::{self, Found};
use crate::verbs::read;

/// The form that the `Accept` header and `includeObject` ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    form: table::Form,
    include: IncludeObject,
}

impl Form {
    /// What the caller accepts.
    ///
    /// # Errors
    /// 406 when that is nothing that we have.
    pub(crate) fn of(call: &Call<'_>) -> ApiResult<Self> {
        let form = table::negotiate(&call.parts.headers).map_err(ApiError::not_acceptable)?;
        let include =
            IncludeObject::parse(call.query.get("includeObject").unwrap_or("")).map_err(ApiError::bad_request)?;
        Ok(Self { form, include })
    }

    /// Whether stored bytes are what the caller wants.
    pub(crate) fn is_plain(self) -> bool {
        self.form == table::Form::Object
    }

    /// One object.
    ///
    /// # Errors
    /// 500 when it cannot be read.
    pub(crate) fn object(self, call: &Call<'_>, code: StatusCode, bytes: Bytes) -> ApiResult<Response<Body>> {
        Ok(respond::json(code, self.shape(call.entry, bytes, true, call.server.clock().now())?))
    }

    fn shape(self, entry: &Entry, bytes: Bytes, first: bool, now: Timestamp) -> ApiResult<Bytes> {
        let shaped = match self.form {
            table::Form::Object => return Ok(bytes),
            table::Form::Table(version) => Table::new(&entry.kind, version, self.include, now).event(&bytes, first),
            table::Form::Metadata(version) => Metadata::new(version).single(&bytes),
        };
        shaped.map(Bytes::from).map_err(ApiError::internal)
    }

    /// A watch event; `first` of its stream or not.
    ///
    /// # Errors
    /// 500 when the object cannot be read.
    pub(crate) fn event(self, entry: &Entry, word: &str, body: Bytes, first: bool, now: Timestamp) -> ApiResult<Bytes> {
        let body = self.shape(entry, body, first, now)?;
        let mut frame = BytesMut::with_capacity(body.len() + word.len() + 24);
        frame.extend_from_slice(b"{\"type\":\"");
        frame.extend_from_slice(word.as_bytes());
        frame.extend_from_slice(b"\",\"object\":");
        frame.extend_from_slice(body.trim_ascii_end());
        frame.extend_from_slice(b"}\n");
        Ok(frame.freeze())
    }

    /// A bookmark; `initial` marks the end of the initial events.
    pub(crate) fn bookmark(self, entry: &Entry, revision: Revision, initial: bool) -> Bytes {
        let annotations = if initial { ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}" } else { "" };
        let (kind, version, rows) = match self.form {
            table::Form::Object => (entry.kind.kind, entry.api_version.as_str(), ""),
            table::Form::Table(version) => ("Table", version.api_version(), ",\"columnDefinitions\":null,\"rows\":[]"),
            table::Form::Metadata(version) => ("PartialObjectMetadata", version.api_version(), ""),
        };
        format!(
            "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":\
             {{\"resourceVersion\":\"{revision}\"{annotations}}}{rows}}}}}\n"
        )
        .into()
    }

    /// A list.
    ///
    /// # Errors
    /// 500 when an object cannot be read.
    pub(crate) async fn list(self, call: &Call<'_>, found: &Found) -> ApiResult<Response<Body>> {
        if self.is_plain() {
            return list::as_json(call, found).await;
        }
        let bodies = read::all_readable(call, &found.items).await?;
        let bodies = bodies.iter().map(|body| &**body);
        let revision = found.revision.to_string();
        let meta = ListMeta { resource_version: &revision, next: found.next.as_deref(), remaining: found.remaining };
        let shaped = match self.form {
            table::Form::Table(version) => {
                Table::new(&call.entry.kind, version, self.include, call.server.clock().now()).list(bodies, meta)
            }
            table::Form::Metadata(version) => Metadata::new(version).list(bodies, meta),
            table::Form::Object => return list::as_json(call, found).await,
        };
        Ok(respond::json(StatusCode::OK, shaped.map_err(ApiError::internal)?))
    }
}
