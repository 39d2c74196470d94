//! A server on a temporary directory, and a small client for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use mainstay_api::Registry;
use mainstay_apiserver::auth::Authenticator;
use mainstay_apiserver::crypt::Sealer;
use mainstay_apiserver::keys::Keys;
use mainstay_apiserver::rbac::Authorizer;
use mainstay_apiserver::token::{StoreSubjects, Subjects, Tokens};
use mainstay_apiserver::{Access, ApiServer, Body, Config, Identity, Limits, inprocess};
use mainstay_runtime::duty::Duties;
use mainstay_runtime::{Clock, Tasks};
use mainstay_store::{Options, SqliteStore, Store};
use serde_json::{Value, json};
use tower::ServiceExt;

/// Waits no longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Harness {
    pub(crate) server: ApiServer,
    pub(crate) keys: Arc<Keys>,
    pub(crate) tasks: Tasks,
    pub(crate) store: Arc<dyn Store>,
    dir: Arc<tempfile::TempDir>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {:?}", self.bytes))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, message: &str) {
        let body = self.expect(status);
        assert_eq!(body["kind"], "Status");
        assert_eq!(body["code"], status);
        assert!(body["reason"].is_string());
        let found = body["message"].as_str().unwrap();
        assert!(found.contains(message), "{found:?} does not contain {message:?}");
    }
}

/// A server over a store, with `subjects` to say what tokens speak for.
fn serve(parts: (&Arc<Keys>, &Tasks, &Arc<dyn Store>), limits: Limits, subjects: Arc<dyn Subjects>) -> ApiServer {
    let (keys, tasks, store) = parts;
    let tokens = Arc::new(Tokens::new(keys, subjects, Clock::system()));
    let access = Access {
        authenticator: Arc::new(Authenticator::new(keys.clone(), tokens.clone())),
        tokens,
        authorizer: Authorizer::new(store.clone()),
    };
    ApiServer::new(Config {
        store: store.clone(),
        registry: Arc::new(Registry::standard()),
        access,
        sealer: Arc::new(Sealer::new(keys)),
        clock: Clock::system(),
        tasks: tasks.clone(),
        duties: Duties::new(tasks.clone(), Clock::system(), store.leases()),
        limits,
        version: "0.1.0",
        metrics: mainstay_apiserver::metrics::registry(),
    })
    .unwrap()
}

impl Harness {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Self::with_subjects(limits, |store| Arc::new(StoreSubjects::new(store))).await
    }

    pub(crate) async fn with_subjects(
        limits: Limits,
        subjects: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Subjects>,
    ) -> Self {
        Self::build(limits, None, subjects).await
    }

    /// One whose database may only have so many pages of 4 KiB.
    pub(crate) async fn with_pages(pages: u32) -> Self {
        Self::build(Limits::default(), Some(pages), |store| Arc::new(StoreSubjects::new(store))).await
    }

    async fn build(
        limits: Limits,
        max_pages: Option<u32>,
        subjects: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Subjects>,
    ) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let tasks = Tasks::new();
        let store: Arc<dyn Store> = SqliteStore::open(Options { max_pages, ..Options::new(dir.path()) }).unwrap();
        let keys = Arc::new(Keys::ephemeral(Clock::system().now()).unwrap());
        let server = serve((&keys, &tasks, &store), limits, subjects(store.clone()));
        let harness = Self { server, keys, tasks, store, dir };
        harness.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
        harness
    }

    /// Another server over the same store, which knows only what is in it: as after a SIGKILL of the first, whose duties end.
    pub(crate) fn restarted(&self) -> Self {
        self.tasks.stop();
        let tasks = Tasks::new();
        let subjects = Arc::new(StoreSubjects::new(self.store.clone()));
        let server = serve((&self.keys, &tasks, &self.store), Limits::default(), subjects);
        Self { server, keys: self.keys.clone(), tasks, store: self.store.clone(), dir: self.dir.clone() }
    }

    pub(crate) async fn send(&self, identity: Identity, request: Request<Full<Bytes>>) -> http::Response<Body> {
        let service = inprocess::service(self.server.clone(), identity, self.tasks.clone());
        tokio::time::timeout(PATIENCE, service.oneshot(request)).await.unwrap().unwrap()
    }

    pub(crate) async fn call_as(
        &self,
        identity: Identity,
        method: &str,
        path: &str,
        media: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
        if !media.is_empty() {
            request = request.header("content-type", media);
        }
        let response = self.send(identity, request.body(Full::new(body.into())).unwrap()).await;
        collect(response).await
    }

    pub(crate) async fn call(&self, method: &str, path: &str, media: &str, body: impl Into<Bytes>) -> Answer {
        self.call_as(Identity::admin(), method, path, media, body).await
    }

    /// Where the server keeps everything.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, "application/json", body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path, "application/json", body.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.call("PATCH", path, "application/merge-patch+json", body.to_string()).await
    }

    pub(crate) async fn json_patch(&self, path: &str, body: &Value) -> Answer {
        self.call("PATCH", path, "application/json-patch+json", body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, "", "").await
    }

    pub(crate) async fn get_with(&self, path: &str, header: &str, value: &str) -> Answer {
        let request = Request::builder().uri(path).header(header, value).body(Full::default()).unwrap();
        collect(self.send(Identity::admin(), request).await).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.get_with(path, "accept", accept).await
    }

    /// Opens a stream of lines.
    pub(crate) async fn lines(&self, path: &str) -> Lines {
        self.lines_as(path, "application/json").await
    }

    pub(crate) async fn lines_as(&self, path: &str, accept: &str) -> Lines {
        let request = Request::builder().uri(path).header("accept", accept).body(Full::default()).unwrap();
        Lines::of(self.send(Identity::admin(), request).await)
    }

    /// The admin's token, as a kubeconfig holds it.
    pub(crate) fn admin_token(&self) -> String {
        let path = self.dir.path().join("kubeconfig");
        self.keys.write_kubeconfig(&path, "https://localhost").unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let (_, token) = text.split_once("token: ").unwrap();
        token.lines().next().unwrap().trim_matches('"').to_owned()
    }

    /// Waits until an object is as it should be, and gives it.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let looked = async {
            loop {
                let found = self.get(path).await.expect(200);
                if wanted(&found) {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, looked).await.expect("in time")
    }

    /// An agent and a session that uses it.
    pub(crate) async fn session(&self, name: &str) -> Value {
        let session = json!({"metadata": {"name": name}, "spec": {"command": ["true"], "prompt": "do it"}});
        self.post(&sessions(""), &session).await.expect(201)
    }
}

pub(crate) async fn collect(response: http::Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, bytes }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

pub(crate) fn configmaps(rest: &str) -> String {
    format!("/api/v1/namespaces/default/configmaps{rest}")
}

pub(crate) fn sessions(rest: &str) -> String {
    format!("/apis/mainstay.dev/v1alpha1/namespaces/default/sessions{rest}")
}

pub(crate) fn configmap(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

/// A response body, line by line.
pub(crate) struct Lines {
    body: Body,
    text: Vec<u8>,
}

impl Lines {
    pub(crate) fn of(response: http::Response<Body>) -> Self {
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), text: Vec::new() }
    }

    /// The next non-empty line; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                if line.len() > 1 {
                    return Some(serde_json::from_slice(&line).unwrap());
                }
                continue;
            }
            match tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("a line in time") {
                Some(frame) => self.text.extend_from_slice(&frame.unwrap().into_data().unwrap()),
                None => return None,
            }
        }
    }

    /// The next watch event: its type and the object's name.
    pub(crate) async fn event(&mut self) -> (String, Value) {
        let event = self.next().await.expect("an event");
        (event["type"].as_str().unwrap().to_owned(), event["object"].clone())
    }
}
