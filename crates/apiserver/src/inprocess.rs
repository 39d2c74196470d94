//! The API without a socket: a tower service, and a `kube::Client` on it.
//!
//! Every request runs on its own tracked task: a caller that goes away does not cancel a write in its middle.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use mainstay_api::names::FENCE_HEADER;
use mainstay_runtime::{Tasks, trace};
use tracing::Span;

use crate::auth::Identity;
use crate::body::{Body, BodyError};
use crate::respond;
use crate::server::{ApiServer, Caller};
use crate::status::ApiError;

/// The API as one identity sees it; cheap to clone.
#[derive(Debug, Clone)]
pub struct InProcess {
    server: ApiServer,
    identity: Identity,
    tasks: Tasks,
    fence: Option<HeaderValue>,
}

/// The service through which `identity` uses `server`.
pub const fn service(server: ApiServer, identity: Identity, tasks: Tasks) -> InProcess {
    InProcess { server, identity, tasks, fence: None }
}

/// A client through which `identity` uses `server`. It belongs to the Tokio runtime in which it is made.
pub fn client(server: ApiServer, identity: Identity, tasks: Tasks) -> kube::Client {
    kube::Client::new(service(server, identity, tasks), "default")
}

/// As [`client`]; what it writes carries `LEASE/TERM`, and is refused when another leads.
pub fn leader_client(server: ApiServer, identity: Identity, tasks: Tasks, fence: &str) -> kube::Client {
    // A lease's name that is no header value is nobody's: the server refuses what carries it.
    let fence = Some(HeaderValue::from_str(fence).unwrap_or(HeaderValue::from_static("?")));
    kube::Client::new(InProcess { fence, ..service(server, identity, tasks) }, "default")
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The request's own task has no span around it but its own.
        if let Some(caller) = trace::traceparent(&Span::current()).and_then(|caller| caller.parse().ok()) {
            request.headers_mut().insert(trace::HEADER, caller);
        }
        if let Some(fence) = &self.fence {
            request.headers_mut().insert(FENCE_HEADER, fence.clone());
        }
        let (server, caller) = (self.server.clone(), Caller::Trusted(self.identity.clone()));
        // Boxed first: the request's future is large, and spawning would move it several times.
        let work = Box::pin(async move { server.handle(request, caller).await });
        let task = self.tasks.spawn("api-request", work);
        Box::pin(async move {
            Ok(task.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a request ended without an answer");
                respond::failure(&ApiError::internal("the request ended without an answer"))
            }))
        })
    }
}
