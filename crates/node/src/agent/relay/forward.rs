//! Passes one request on.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use mainstay_runtime::Tasks;
use tower::ServiceExt;

use super::policy::{self, BODY_LIMIT, Refusal, Subject};
use super::{Api, Body, Heard};

/// The largest heartbeat.
const HEARTBEAT_LIMIT: usize = 16 * 1024;

/// Passes a sandbox's requests on.
pub(super) struct Forward {
    pub(super) subject: Subject,
    pub(super) heard: Arc<Heard>,
    pub(super) api: Api,
    pub(super) tasks: Tasks,
}

impl Forward {
    /// Answers one request: by the API's answer, or by a refusal.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        Ok(self.relay(request).await.unwrap_or_else(|refusal| {
            let Refusal(status, why) = refusal;
            tracing::warn!(%status, why, "a sandbox's request was refused");
            status_object(status, why)
        }))
    }

    async fn relay(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (parts, body) = request.into_parts();
        let kind = self.subject.judge(&parts)?;
        let (heartbeat, body) = match kind {
            policy::Request::Heartbeat => (true, self.heartbeat(body).await?),
            policy::Request::Other => (false, Limited::new(body, BODY_LIMIT).boxed_unsync()),
        };
        let response = self.call(rebuild(&parts, body)?).await?;
        if heartbeat && response.status().is_success() {
            self.heard.note();
        }
        let (parts, body) = response.into_parts();
        let mut answer = Response::new(body);
        *answer.status_mut() = parts.status;
        *answer.headers_mut() = policy::outward(&parts.headers);
        Ok(answer)
    }

    /// Reads a heartbeat, which must be this run's own.
    async fn heartbeat(&self, body: Incoming) -> Result<Body, Refusal> {
        let bytes = Limited::new(body, HEARTBEAT_LIMIT).collect().await;
        let bytes = bytes.map_err(|_| Refusal(StatusCode::BAD_REQUEST, "the heartbeat cannot be read"))?.to_bytes();
        if self.subject.is_own_heartbeat(&bytes) {
            return Ok(whole(bytes));
        }
        Err(Refusal(StatusCode::FORBIDDEN, "the heartbeat is another run's"))
    }

    /// Calls the API on a task of its own, so that it ends even if the sandbox hangs up.
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        let call = self.tasks.spawn("relayed call", self.api.clone().oneshot(request));
        match call.await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                tracing::warn!(error, "a relayed call failed");
                Err(Refusal(StatusCode::BAD_GATEWAY, "the API did not answer"))
            }
            Err(error) => {
                tracing::error!(%error, "a relayed call did not come to its end");
                Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, "the API failed"))
            }
        }
    }
}

/// The same request with nothing but what may pass.
fn rebuild(parts: &Parts, body: Body) -> Result<Request<Body>, Refusal> {
    let target = parts.uri.path_and_query().cloned();
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = target.map(Uri::from).ok_or(Refusal(StatusCode::BAD_REQUEST, "no path"))?;
    *request.headers_mut() = policy::inward(&parts.headers);
    Ok(request)
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn status_object(status: StatusCode, why: &str) -> Response<Body> {
    let object = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": why, "code": status.as_u16(),
    });
    let mut response = Response::new(whole(Bytes::from(object.to_string())));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    *response.headers_mut() = HeaderMap::from_iter([(header::CONTENT_TYPE, json)]);
    response
}
