//! Single calls to one server, of which everything is noted that a client learns.

use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use mainstay_api::names::FENCE_HEADER;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

/// A call that is not answered by then hangs.
pub(crate) const HANGS: Duration = Duration::from_mins(1);
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What came of a call.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// `None` when the connection broke, or nothing was answered for [`HANGS`].
    pub(crate) code: Option<u16>,
    /// Of the header `Retry-After`, in seconds.
    pub(crate) retry_after: Option<u64>,
    pub(crate) took: Duration,
    /// What was said; why nothing was.
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The reason word of a refusal.
    pub(crate) fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// The object's revision.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.json()["metadata"]["resourceVersion"].as_str()?.parse().ok()
    }
}

/// One server, as its admin.
#[derive(Clone)]
pub(crate) struct Api(pub(crate) kube::Client);

impl Api {
    pub(crate) const fn new(client: kube::Client) -> Self {
        Self(client)
    }

    pub(crate) async fn call(&self, method: &str, path: &str, fence: Option<&str>, body: &Value) -> Answer {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut request = Request::builder().method(method).uri(path).header("content-type", kind);
        if let Some(fence) = fence {
            request = request.header(FENCE_HEADER, fence);
        }
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let began = Instant::now();
        let asked = async {
            let answer = self.0.send(request.body(Body::from(bytes))?).await?;
            let code = answer.status().as_u16();
            let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            let bytes = answer.into_body().collect().await?.to_bytes();
            anyhow::Ok((code, retry_after, String::from_utf8_lossy(&bytes).into_owned()))
        };
        let (code, retry_after, text) = match timeout(HANGS, asked).await {
            Ok(Ok((code, retry_after, text))) => (Some(code), retry_after, text),
            Ok(Err(error)) => (None, None, format!("{error:#}")),
            Err(_) => (None, None, "it hangs".to_owned()),
        };
        Answer { code, retry_after, took: began.elapsed(), text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None, &Value::Null).await
    }

    /// Creates a `ConfigMap`, under a leader's term when one is given.
    pub(crate) async fn create(&self, name: &str, fence: Option<&str>) -> Answer {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
        self.call("POST", CONFIG_MAPS, fence, &object).await
    }
}
