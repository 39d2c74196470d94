//! Who holds a stream, to ask again while it lives whether they still may.

use std::sync::Arc;

use http::Request;
use http::request::Parts;
use tokio::time::Instant;

use crate::auth::Identity;
use crate::node;
use crate::rbac::Attributes;
use crate::request::{ResourcePath, Verb};
use crate::route;
use crate::server::{ApiServer, Call, Caller};
use crate::status::ApiResult;
use crate::tls::Peer;

/// Checks in a row that may fail to find out.
const MOST_UNSURE: u32 = 5;

/// The caller behind a stream.
pub(crate) struct Holder {
    identity: Identity,
    /// Checks in a row that did not find out.
    unsure: u32,
    /// What came over a socket, to authenticate again; `None` for callers of this process.
    parts: Option<Parts>,
    peer: Option<Arc<Peer>>,
    path: ResourcePath<'static>,
    verb: Verb,
    /// The node to whose Pods the stream is confined.
    node: String,
}

impl Holder {
    /// The caller of this request.
    pub(crate) fn of(call: &Call<'_>, verb: Verb) -> Self {
        Self {
            identity: call.identity.clone(),
            unsure: 0,
            parts: (!matches!(call.caller, Caller::Trusted(_))).then(|| copy_of(call.parts)),
            peer: call.caller.peer().cloned(),
            path: call.path.to_owned_path(),
            verb,
            node: node::selected(call).into_owned(),
        }
    }

    /// Whether the caller is still known and still has the right. A server that cannot tell lets the stream live for a
    /// few checks more: then it ends, and its client has to show its right anew.
    async fn may_go_on(&mut self, server: &ApiServer) -> bool {
        match self.found_out(server).await {
            Ok(may) => {
                self.unsure = 0;
                may
            }
            Err(error) => {
                self.unsure += 1;
                tracing::warn!(user = self.identity.user(), %error, "the right to a stream cannot be checked");
                self.unsure < MOST_UNSURE
            }
        }
    }

    async fn found_out(&mut self, server: &ApiServer) -> ApiResult<bool> {
        if let Some(parts) = &self.parts {
            match node::authenticate(server, parts, self.peer.as_ref()).await {
                Ok(identity) => self.identity = identity,
                Err(error) if error.code() == 401 => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let attributes = Attributes { node: &self.node, ..route::attributes_of(&self.path, self.verb) };
        server.access().allows(&self.identity, &attributes).await
    }

    /// Ends at `end`, when the right is withdrawn, or when the server stops.
    pub(crate) async fn over(mut self, server: ApiServer, end: Instant) {
        let stop = server.tasks().stopping();
        loop {
            let next = Instant::now() + server.limits().recheck;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next.min(end)) => {}
            }
            if next >= end || !self.may_go_on(&server).await {
                return;
            }
        }
    }
}

fn copy_of(parts: &Parts) -> Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.headers.clone_from(&parts.headers);
    copy
}
