//! Who holds a stream, to ask again while it lives whether they still may.

use http::Request;
use http::request::Parts;

use crate::auth::Identity;
use crate::request::{ResourcePath, Verb};
use crate::route;
use crate::server::{ApiServer, Call};

/// The caller behind a stream.
pub(crate) struct Holder {
    identity: Identity,
    /// What came over a socket, to authenticate again; `None` for callers of this process.
    parts: Option<Parts>,
    path: ResourcePath<'static>,
    verb: Verb,
}

impl Holder {
    /// The caller of this request.
    pub(crate) fn of(call: &Call<'_>, verb: Verb) -> Self {
        Self {
            identity: call.identity.clone(),
            parts: (!call.trusted).then(|| copy_of(call.parts)),
            path: call.path.to_owned_path(),
            verb,
        }
    }

    /// Whether the caller is still known and still has the right; a server that cannot tell lets the stream live.
    pub(crate) async fn may_go_on(&mut self, server: &ApiServer) -> bool {
        if let Some(parts) = &self.parts {
            match server.access().authenticate(parts).await {
                Ok(identity) => self.identity = identity,
                Err(error) if error.code() == 401 => return false,
                Err(_) => return true,
            }
        }
        let attributes = route::attributes_of(&self.path, self.verb);
        server.access().allows(&self.identity, &attributes).await.unwrap_or(true)
    }

    /// Ends when the right is withdrawn, or the server stops.
    pub(crate) async fn withdrawn(mut self, server: ApiServer) {
        let stop = server.tasks().stopping();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(server.limits().recheck) => {}
            }
            if !self.may_go_on(&server).await {
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
