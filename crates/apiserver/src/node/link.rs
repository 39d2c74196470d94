//! The way to node agents elsewhere: connections that they opened, over which the server asks.
//!
//! `GET nodes/NAME/link` with an upgrade turns a connection round: from then on the server is the client of HTTP/2 on it. One
//! per node; a newer one takes the place of the older. It ends with the right to it, and with the server.
//!
//! A node keeps one to each replica, since any of them may be asked for its logs. Who they are, and how many, it need not
//! know, nor reach each by an address of its own: it goes on opening connections, says which replicas it has, and one that is
//! among them answers 204.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyDataStream, BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::upgrade::OnUpgrade;
use mainstay_api::exec::{ExecFrame, ExecRequest};
use mainstay_api::names::{LINKED_HEADER, REPLICA_HEADER};
use mainstay_api::node::{EXEC_PATH, LINK_PROTOCOL, LogRequest};
use mainstay_runtime::client::{LinkBody, Reversed};
use mainstay_runtime::failure::chain_of;
use tokio::time::Instant;

use crate::body::Body;
use crate::holder::Holder;
use crate::nodelink::{ExecFrames, LinkError, LogOptions, LogStream, NodeLink, frames};
use crate::request::Verb;
use crate::server::{ApiServer, Call};
use crate::status::{ApiError, ApiResult};

/// How long an agent has to begin its answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the connection may take to be turned round.
const TURN: Duration = Duration::from_secs(10);
/// A connection is made anew after so long, so that none outlives its certificate.
const LIFE: Duration = Duration::from_hours(12);

/// The agents that can be reached, by the name of their node.
#[derive(Debug)]
pub struct Links {
    /// Which replica this is: another one after each start.
    replica: String,
    all: Mutex<HashMap<String, Arc<dyn NodeLink>>>,
}

impl Default for Links {
    fn default() -> Self {
        Self { replica: format!("{:016x}", rand::random::<u64>()), all: Mutex::default() }
    }
}

impl Links {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<dyn NodeLink>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, node: &str) -> Option<Arc<dyn NodeLink>> {
        self.all().get(node).cloned()
    }

    pub(crate) fn put(&self, node: &str, link: Arc<dyn NodeLink>) {
        self.all().insert(node.to_owned(), link);
    }

    /// Whether the node has a link to this replica, and says so.
    fn has(&self, node: &str, headers: &HeaderMap) -> bool {
        let said = headers.get(LINKED_HEADER).and_then(|said| said.to_str().ok()).unwrap_or_default();
        said.split(',').any(|replica| replica.trim() == self.replica) && self.get(node).is_some()
    }

    /// Forgets this one, unless another has taken its place.
    fn forget(&self, node: &str, link: &Arc<dyn NodeLink>) {
        let mut all = self.all();
        if all.get(node).is_some_and(|there| Arc::ptr_eq(there, link)) {
            all.remove(node);
        }
    }
}

/// Answers `GET` with an upgrade.
///
/// # Errors
/// 400 for a request that asks for no upgrade.
pub(crate) fn open(call: &Call<'_>) -> ApiResult<Response<Body>> {
    let asked = call.parts.headers.get(UPGRADE).is_some_and(|value| value == LINK_PROTOCOL);
    let upgrade = call.parts.extensions.get::<OnUpgrade>().filter(|_| asked).cloned();
    let upgrade = upgrade.ok_or_else(|| ApiError::bad_request(format!("expected an upgrade to {LINK_PROTOCOL}")))?;
    let mut response = Response::new(Body::empty());
    let replica = HeaderValue::from_str(&call.server.links().replica).map_err(ApiError::internal)?;
    response.headers_mut().insert(REPLICA_HEADER, replica);
    if call.server.links().has(call.name(), &call.parts.headers) {
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let holder = Holder::of(call, Verb::Get);
    let (server, node) = (call.server.clone(), call.name().to_owned());
    drop(call.server.tasks().spawn("node link", async move { serve(server, node, holder, upgrade).await }));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(LINK_PROTOCOL));
    Ok(response)
}

/// Keeps the link until it breaks, its holder loses the right to it, or the server stops.
async fn serve(server: ApiServer, node: String, holder: Holder, upgrade: OnUpgrade) {
    let turned = tokio::time::timeout(TURN, async { Reversed::over(upgrade.await?).await }).await;
    let (calls, connection) = match turned {
        Ok(Ok(turned)) => turned,
        Ok(Err(error)) => return tracing::warn!(node, error = chain_of(&error), "a node's link could not be opened"),
        Err(_) => return tracing::warn!(node, "a node's link was not opened in time"),
    };
    let link: Arc<dyn NodeLink> = Arc::new(Link { node: node.clone(), calls });
    server.links().put(&node, link.clone());
    tracing::info!(node, "a node's agent is connected");
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(node, error = chain_of(&error), "a node's link broke");
        },
        () = holder.over(server.clone(), Instant::now() + LIFE) => {}
    }
    server.links().forget(&node, &link);
    tracing::info!(node, "a node's agent is not connected any more");
}

/// An agent behind a connection that it opened.
struct Link {
    node: String,
    calls: Reversed,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.node).finish()
    }
}

impl Link {
    async fn ask(&self, path: &str, body: LinkBody) -> Result<Response<Incoming>, LinkError> {
        let request = Request::post(format!("http://node{path}")).body(body).map_err(std::io::Error::other)?;
        self.calls.call(request, ANSWER).await.map_err(|error| {
            tracing::warn!(node = self.node, error = chain_of(&error), "a node's agent does not answer");
            LinkError::Away(self.node.clone())
        })
    }

    async fn ask_for_log(&self, asked: LogRequest) -> Result<LogStream, LinkError> {
        let body = Full::new(Bytes::from(serde_json::to_vec(&asked).map_err(std::io::Error::from)?));
        let answer = self.ask("/logs", body.map_err(|never| match never {}).boxed_unsync()).await?;
        match answer.status() {
            StatusCode::OK => {
                let stream = BodyDataStream::new(answer.into_body());
                Ok(stream.map(|chunk| chunk.map_err(std::io::Error::other)).boxed())
            }
            StatusCode::NOT_FOUND => Err(LinkError::NoSuchLog),
            StatusCode::CONFLICT => Err(LinkError::NotStarted),
            _ => Err(failed()),
        }
    }

    async fn ask_to_run(&self, request: ExecRequest, input: ExecFrames) -> Result<ExecFrames, LinkError> {
        let all = stream::iter([Ok(ExecFrame::Start(request))]).chain(input);
        let body = StreamBody::new(all.map_ok(|frame| Frame::data(frame.encode())));
        let answer = self.ask(EXEC_PATH, body.boxed_unsync()).await?;
        match answer.status() {
            StatusCode::OK => Ok(frames(BodyDataStream::new(answer.into_body()))),
            StatusCode::CONFLICT => Err(LinkError::NotRunning),
            StatusCode::TOO_MANY_REQUESTS => Err(LinkError::TooMany),
            StatusCode::NOT_IMPLEMENTED => Err(LinkError::Unsupported),
            _ => Err(failed()),
        }
    }
}

fn failed() -> LinkError {
    LinkError::Io(std::io::Error::other("the node's log says why"))
}

impl NodeLink for Link {
    fn logs(&self, pod_uid: &str, options: LogOptions) -> BoxFuture<'_, Result<LogStream, LinkError>> {
        let LogOptions { follow, tail_lines, since, timestamps, limit_bytes } = options;
        let pod_uid = pod_uid.to_owned();
        self.ask_for_log(LogRequest { pod_uid, follow, tail_lines, since, timestamps, limit_bytes }).boxed()
    }

    fn exec(&self, request: ExecRequest, input: ExecFrames) -> BoxFuture<'_, Result<ExecFrames, LinkError>> {
        self.ask_to_run(request, input).boxed()
    }
}
