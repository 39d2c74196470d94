//! The connections over which servers ask this node: opened by us, one to each replica.
//!
//! Which replicas there are it finds out by itself, also behind one address for all: it goes on opening connections, to each
//! address in turn, and says which replicas it has; one that is among them says so. A link that breaks is missed at once; one
//! that has hardly been there counts as a try that failed, and the pause before the next one grows.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyDataStream, BodyExt as _, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mainstay_api::exec::ExecFrame;
use mainstay_api::node::{EXEC_PATH, LogRequest};
use mainstay_apiserver::nodelink::frames;
use mainstay_node::agent::Handle;
use mainstay_node::agent::exec::ExecError;
use mainstay_node::agent::logs::{LogError, LogOptions};
use mainstay_runtime::client::{LINK_CALLS, LINK_PING, LINK_STREAM_WINDOW, LINK_WINDOW};
use mainstay_runtime::failure::chain_of;
use mainstay_runtime::{KeyBackoff, Tasks};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Machine;

/// Bytes of a question, and how long it may take to come.
const QUESTION: usize = 16 << 10;
const QUESTION_TIME: Duration = Duration::from_secs(10);
/// How long answers may take once the process stops.
const DRAIN: Duration = Duration::from_secs(2);

/// A link that breaks sooner than this was none.
const STEADY: Duration = Duration::from_secs(10);
/// The longest pause between two looks for replicas to which there is no link.
const LOOK: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The replicas that have a link to this node, by the names that they give themselves.
#[derive(Default)]
struct Linked {
    names: Mutex<BTreeSet<String>>,
    broke: Notify,
    /// One has broken that had hardly been there.
    brief: AtomicBool,
}

impl Linked {
    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<String> {
        self.names().iter().cloned().collect()
    }

    /// The link to this replica has broken after so long.
    fn ended(&self, replica: &str, lasted: Duration) {
        self.names().remove(replica);
        if lasted < STEADY {
            self.brief.store(true, Ordering::Relaxed);
        } else {
            self.broke.notify_one();
        }
    }

    /// Whether the next look may come at once: after a link was opened, and none of late has broken as soon as it was there.
    fn may_go_on(&self) -> bool {
        !self.brief.swap(false, Ordering::Relaxed)
    }
}

/// Keeps links until told to stop.
pub(super) async fn run(machine: Machine, agent: Handle, tasks: Tasks, stop: CancellationToken) {
    let (linked, mut backoff) = (Arc::new(Linked::default()), KeyBackoff::default());
    for turn in 0.. {
        let names = linked.all();
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            opened = machine.opened(turn, agent.term(), &names) => opened,
        };
        match opened {
            Ok(Some((replica, connection))) => {
                linked.names().insert(replica.clone());
                let kept = keep(machine.clone(), linked.clone(), replica, connection, agent.clone(), stop.clone());
                drop(tasks.spawn("link", kept));
                if linked.may_go_on() {
                    continue;
                }
            }
            Ok(None) => {}
            Err(error) if names.is_empty() => {
                tracing::warn!(error = chain_of(&error), "no server can be reached; logs are not to be had");
            }
            Err(error) => tracing::debug!(error = chain_of(&error), "a server cannot be reached"),
        }
        let pause = backoff.fail(rand::random()).min(LOOK);
        tokio::select! {
            () = stop.cancelled() => return,
            () = linked.broke.notified() => backoff.reset(),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Serves one link until it breaks.
async fn keep(
    machine: Machine,
    linked: Arc<Linked>,
    replica: String,
    connection: Upgraded,
    agent: Handle,
    stop: CancellationToken,
) {
    tracing::info!(replica, "the server can reach this node");
    machine.seen.linked(linked.all().len());
    let began = Instant::now();
    serve(connection, agent, &stop).await;
    linked.ended(&replica, began.elapsed());
    machine.seen.linked(linked.all().len());
}

async fn serve(connection: Upgraded, agent: Handle, stop: &CancellationToken) {
    let service = service_fn(move |request| answer(agent.clone(), request));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(LINK_PING)
        .keep_alive_timeout(LINK_PING)
        .max_concurrent_streams(LINK_CALLS)
        .initial_stream_window_size(LINK_STREAM_WINDOW)
        .initial_connection_window_size(LINK_WINDOW);
    let mut connection = std::pin::pin!(builder.serve_connection(connection, service));
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(error = chain_of(&error), "the link broke");
            }
            return;
        }
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    // A log that is followed has no end of its own.
    tokio::time::timeout(DRAIN, connection).await.ok();
}

async fn answer(agent: Handle, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    Ok(match (parts.method, parts.uri.path()) {
        (Method::POST, "/logs") => logs(agent, body).await,
        (Method::POST, EXEC_PATH) => exec(agent, body).await,
        _ => short(StatusCode::NOT_IMPLEMENTED),
    })
}

async fn logs(agent: Handle, body: Incoming) -> Response<Body> {
    let read = tokio::time::timeout(QUESTION_TIME, Limited::new(body, QUESTION).collect()).await;
    let asked = read.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
    let Some(LogRequest { pod_uid, follow, tail_lines, since, timestamps, limit_bytes }) = asked else {
        return short(StatusCode::BAD_REQUEST);
    };
    let options = LogOptions { follow, tail_lines, since, timestamps, limit_bytes };
    match agent.logs(&pod_uid, options).await {
        Ok(log) => Response::new(StreamBody::new(log.map_ok(Frame::data)).boxed_unsync()),
        Err(LogError::NoSuchLog) => short(StatusCode::NOT_FOUND),
        Err(LogError::NotStarted) => short(StatusCode::CONFLICT),
        Err(LogError::Io(error)) => {
            tracing::error!(pod = pod_uid, %error, "a log cannot be read");
            short(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

async fn exec(agent: Handle, body: Incoming) -> Response<Body> {
    let mut input = frames(BodyDataStream::new(body));
    let first = tokio::time::timeout(QUESTION_TIME, input.next()).await;
    let Ok(Some(Ok(ExecFrame::Start(request)))) = first else { return short(StatusCode::BAD_REQUEST) };
    let pod = request.pod_uid.clone();
    match agent.exec(request, input).await {
        Ok(said) => Response::new(StreamBody::new(said.map_ok(|frame| Frame::data(frame.encode()))).boxed_unsync()),
        Err(ExecError::NotRunning) => short(StatusCode::CONFLICT),
        Err(ExecError::TooMany) => short(StatusCode::TOO_MANY_REQUESTS),
        Err(ExecError::Unsupported) => short(StatusCode::NOT_IMPLEMENTED),
        Err(ExecError::Io(error)) => {
            tracing::error!(pod, %error, "a command cannot be run");
            short(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

fn short(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_link_that_has_hardly_been_there_is_not_missed_at_once() {
        let linked = Linked::default();
        let is_missed = async || tokio::time::timeout(Duration::from_secs(1), linked.broke.notified()).await.is_ok();
        assert!(linked.may_go_on());
        for (lasted, missed) in [(Duration::ZERO, false), (STEADY / 2, false), (STEADY, true)] {
            linked.names().insert("a".to_owned());
            linked.ended("a", lasted);
            assert!(linked.all().is_empty());
            assert_eq!(is_missed().await, missed, "{lasted:?}");
            assert_eq!(linked.may_go_on(), missed, "{lasted:?}");
            assert!(linked.may_go_on(), "it counts once");
        }
    }
}
