//! A stand-in for the API server: Pods with versions, watch, merge patches and finalizers; a few other objects; and one
//! session's messages and heartbeat per session, for what comes through relays.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use mainstay_node::agent::relay;
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = (u16, Value);

/// The API's state; cheap to clone.
#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    version: u64,
    pods: BTreeMap<String, Value>,
    log: Vec<(u64, &'static str, Value)>,
    others: BTreeMap<String, Value>,
    status_writes: HashMap<String, Vec<Value>>,
    messages: Vec<Value>,
    heartbeats: Vec<Value>,
    authorizations: Vec<String>,
    tokens: u64,
    token_age: i64,
    failures: Vec<(String, u16)>,
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/";
const SESSIONS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/web/sessions/";

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub(crate) fn relayed(&self) -> relay::Api {
        let api = self.clone();
        relay::Api::new(tower::service_fn(move |request: Request<relay::Body>| {
            let api = api.clone();
            async move { api.session(request).await }
        }))
    }

    /// Creates a Pod; its uid.
    pub(crate) fn create(&self, mut pod: Value) -> String {
        let mut state = self.lock();
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        let uid = format!("{name}-{:08x}", rand::random::<u32>());
        pod["metadata"]["uid"] = json!(uid);
        pod["metadata"]["namespace"] = json!("web");
        pod["status"] = json!({ "phase": "Pending" });
        self.put(&mut state, &name, pod, "ADDED");
        uid
    }

    /// Puts another object at its path.
    pub(crate) fn place(&self, path: &str, object: Value) {
        self.lock().others.insert(path.to_owned(), object);
    }

    /// The next call whose path contains `part` is answered with this status.
    pub(crate) fn fail(&self, part: &str, status: u16) {
        self.lock().failures.push((part.to_owned(), status));
    }

    /// Tokens from now on look as if they were this many seconds old.
    pub(crate) fn age_tokens(&self, seconds: i64) {
        self.lock().token_age = seconds;
    }

    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.lock();
        let mut pod = state.pods[name].clone();
        change(&mut pod);
        self.put(&mut state, name, pod, "MODIFIED");
    }

    /// Asks for deletion; the object goes once nobody has a finalizer on it.
    pub(crate) fn delete(&self, name: &str, grace: u64) {
        self.change(name, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        });
    }

    /// Removes an object whoever has a finalizer on it.
    pub(crate) fn erase(&self, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        let mut pod = state.pods.remove(name).unwrap();
        pod["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let version = state.version;
        state.log.push((version, "DELETED", pod));
        self.changed.send_replace(version);
    }

    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        self.lock().pods.get(name).cloned()
    }

    pub(crate) fn status_writes(&self, name: &str) -> Vec<Value> {
        self.lock().status_writes.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        let state = self.lock();
        state.messages.iter().map(|message| message["text"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The texts of one session's agent, in order.
    pub(crate) fn said_in(&self, session: &str) -> Vec<String> {
        let state = self.lock();
        let said = state.messages.iter().filter(|one| one["session"] == session && one["type"] == "agent");
        said.map(|message| message["text"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub(crate) fn heartbeats(&self) -> usize {
        self.lock().heartbeats.len()
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.lock().tokens
    }

    /// The tokens that came through relays, without repetitions.
    pub(crate) fn tokens_seen(&self) -> Vec<String> {
        let mut seen = self.lock().authorizations.clone();
        seen.dedup();
        seen
    }

    fn put(&self, state: &mut State, name: &str, mut pod: Value, kind: &'static str) {
        state.version += 1;
        let version = state.version;
        pod["metadata"]["resourceVersion"] = json!(version.to_string());
        let finalizers = pod["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
        if !pod["metadata"]["deletionTimestamp"].is_null() && finalizers == 0 {
            state.pods.remove(name);
            state.log.push((version, "DELETED", pod));
        } else {
            state.pods.insert(name.to_owned(), pod.clone());
            state.log.push((version, kind, pod));
        }
        self.changed.send_replace(version);
    }

    async fn serve(self, request: Request<kube::client::Body>) -> Response<UnsyncBoxBody<Bytes, relay::BoxError>> {
        let (parts, body) = request.into_parts();
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if let Some(status) = self.failure(&path) {
            return respond(&failure(status, "as asked"));
        }
        if path == "/api/v1/pods" {
            assert!(query.contains("fieldSelector=spec.nodeName%3Dlocal"), "{query}");
            return if query.contains("watch=true") { self.watch(&query) } else { respond(&self.list()) };
        }
        if let Some(rest) = path.strip_prefix("/api/v1/namespaces/web/pods/") {
            let (name, subresource) = rest.split_once('/').unwrap_or((rest, ""));
            return respond(&match parts.method {
                Method::GET => self.pod(name).map_or_else(|| failure(404, "not found"), |pod| (200, pod)),
                Method::PATCH => self.patch(name, subresource, &body),
                _ => failure(405, "not here"),
            });
        }
        if path == "/api/v1/namespaces/web/serviceaccounts/default/token" {
            return respond(&self.token(body));
        }
        if path.starts_with(LEASES) {
            return respond(&self.lease(&path, &parts.method, body));
        }
        let other = self.lock().others.get(&path).cloned();
        respond(&other.map_or_else(|| failure(404, "not found"), |other| (200, other)))
    }

    fn failure(&self, path: &str) -> Option<u16> {
        let mut state = self.lock();
        let at = state.failures.iter().position(|(part, _)| path.contains(part.as_str()))?;
        Some(state.failures.remove(at).1)
    }

    fn list(&self) -> Answer {
        let state = self.lock();
        let items: Vec<_> = state.pods.values().cloned().collect();
        let metadata = json!({ "resourceVersion": state.version.to_string() });
        (200, json!({ "kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items }))
    }

    fn watch(&self, query: &str) -> Response<UnsyncBoxBody<Bytes, relay::BoxError>> {
        let after = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
        let after: u64 = after.and_then(|version| version.parse().ok()).unwrap_or(0);
        let api = self.clone();
        let lines = stream::unfold((after, self.changed.subscribe()), move |(mut after, mut changes)| {
            let api = api.clone();
            async move {
                loop {
                    changes.borrow_and_update();
                    let news: Vec<_> =
                        api.lock().log.iter().filter(|(version, ..)| *version > after).cloned().collect();
                    if let Some((last, ..)) = news.last() {
                        after = *last;
                        let line = |(_, kind, object): &(u64, &str, Value)| json!({ "type": kind, "object": object });
                        let text: Vec<_> = news.iter().map(|event| format!("{}\n", line(event))).collect();
                        return Some((text.concat(), (after, changes)));
                    }
                    changes.changed().await.ok()?;
                }
            }
        });
        Response::new(StreamBody::new(lines.map(|text| Ok(Frame::data(Bytes::from(text))))).boxed_unsync())
    }

    fn patch(&self, name: &str, subresource: &str, patch: &Value) -> Answer {
        let mut state = self.lock();
        let Some(pod) = state.pods.get(name).cloned() else { return failure(404, "not found") };
        for field in ["uid", "resourceVersion"] {
            let wanted = &patch["metadata"][field];
            if !wanted.is_null() && *wanted != pod["metadata"][field] {
                return failure(409, field);
            }
        }
        let mut changed = pod.clone();
        if subresource == "status" {
            merge(&mut changed["status"], &patch["status"]);
            state.status_writes.entry(name.to_owned()).or_default().push(changed["status"].clone());
        } else {
            merge(&mut changed["metadata"], &patch["metadata"]);
        }
        self.put(&mut state, name, changed.clone(), "MODIFIED");
        (200, state.pods.get(name).cloned().unwrap_or(changed))
    }

    /// A lease, which is there from the start, and is replaced by compare-and-swap.
    fn lease(&self, path: &str, method: &Method, mut body: Value) -> Answer {
        let mut state = self.lock();
        let first = || json!({ "metadata": { "name": "local", "resourceVersion": "0" }, "spec": {} });
        let known = state.others.entry(path.to_owned()).or_insert_with(first).clone();
        if *method == Method::GET {
            return (200, known);
        }
        if body["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] {
            return failure(409, "resourceVersion");
        }
        state.version += 1;
        body["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.others.insert(path.to_owned(), body.clone());
        (200, body)
    }

    fn token(&self, mut request: Value) -> Answer {
        let mut state = self.lock();
        state.tokens += 1;
        let bound = request["spec"]["boundObjectRef"].clone();
        assert_eq!(request["spec"]["audiences"], json!(["mainstay"]));
        #[expect(clippy::disallowed_methods, reason = "the fake's own clock")]
        let issued = jiff::Timestamp::now().as_second() - state.token_age;
        let ours = json!({ "bound": { "kind": bound["kind"], "name": bound["name"], "uid": bound["uid"] } });
        let claims = json!({ "iat": issued, "exp": issued + 900, "jti": state.tokens, "mainstay.dev": ours });
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
        request["status"] = json!({ "token": token, "expirationTimestamp": "2026-01-01T00:00:00Z" });
        (201, request)
    }

    async fn session(self, request: Request<relay::Body>) -> Result<Response<relay::Body>, relay::BoxError> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let rest = path.strip_prefix(SESSIONS).unwrap();
        let (session, subresource) = rest.split_once('/').unwrap_or((rest, ""));
        let authorization = parts.headers["authorization"].to_str().unwrap().to_owned();
        self.lock().authorizations.push(authorization);
        if subresource == "messages" && parts.method == Method::GET {
            // Nobody ever says anything.
            return Ok(Response::new(StreamBody::new(stream::pending()).boxed_unsync()));
        }
        let body: Value = serde_json::from_slice(&body.collect().await?.to_bytes()).unwrap_or_default();
        if let Some(status) = self.failure(&path) {
            return Ok(respond(&failure(status, "as asked")));
        }
        Ok(respond(&match (parts.method, subresource) {
            (Method::PUT, "heartbeat") => {
                self.lock().heartbeats.push(body.clone());
                (200, body)
            }
            (Method::GET, "heartbeat") => (200, json!({ "run": 0 })),
            (Method::POST, "messages") => self.append(session, &body),
            _ => failure(404, "not found"),
        }))
    }

    fn append(&self, session: &str, body: &Value) -> Answer {
        let mut state = self.lock();
        for message in body["messages"].as_array().unwrap() {
            if state.messages.iter().all(|known| known["id"] != message["id"] || known["session"] != session) {
                let mut message = message.clone();
                message["session"] = json!(session);
                state.messages.push(message);
            }
        }
        (200, json!({ "messages": [], "last": state.messages.len() }))
    }
}

fn failure(status: u16, message: &str) -> Answer {
    let reason = match status {
        404 => "NotFound",
        409 => "Conflict",
        _ => "",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": status,
    });
    (status["code"].as_u64().map_or(500, |code| u16::try_from(code).unwrap()), status)
}

fn respond((status, body): &Answer) -> Response<UnsyncBoxBody<Bytes, relay::BoxError>> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(*status).body(body).unwrap()
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        target.clone_from(patch);
        return;
    };
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}
