//! A small API in memory: get, list with pages, watch, create, merge patch, status, delete with finalizers.
//!
//! It keeps Kubernetes' rules where a controller can feel them: versions from one counter, conflicts, generations,
//! answers that come after the event was published. It never blocks on anything but Tokio, so time may be paused.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// How a request is answered instead of as usual.
type Fault = Box<dyn FnMut(&Method, &str) -> Option<u16> + Send>;

#[derive(Default)]
struct State {
    version: u64,
    /// Versions up to this one are no longer in the history.
    floor: u64,
    objects: BTreeMap<String, Value>,
    history: Vec<(u64, &'static str, Value)>,
    requests: Vec<String>,
    fault: Option<Fault>,
}

/// The API; cheap to clone.
#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    live: broadcast::Sender<()>,
    /// Ends all watches when it changes.
    cut: broadcast::Sender<()>,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), live: broadcast::channel(16).0, cut: broadcast::channel(16).0 }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.handle(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// From now on `fault` may answer requests with a status of its own.
    pub(crate) fn set_fault(&self, fault: impl FnMut(&Method, &str) -> Option<u16> + Send + 'static) {
        self.state.lock().unwrap().fault = Some(Box::new(fault));
    }

    /// `METHOD path?query` of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The object at this path.
    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// Changes an object as some other client would.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock().unwrap();
        let mut object = state.objects[path].clone();
        change(&mut object);
        state.put(path, object, "MODIFIED");
        self.live.send(()).ok();
    }

    /// Adds an object as some other client would.
    pub(crate) fn add(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.complete(path, &mut object);
        let object = state.put(path, object, "ADDED");
        self.live.send(()).ok();
        object
    }

    /// Removes an object with no more ado.
    pub(crate) fn remove(&self, path: &str) {
        self.state.lock().unwrap().remove(path);
        self.live.send(()).ok();
    }

    /// Ends all watches and forgets their places, as after a compaction.
    pub(crate) fn forget_history(&self) {
        let mut state = self.state.lock().unwrap();
        state.floor = state.version;
        state.history.clear();
        self.cut.send(()).ok();
    }

    async fn handle(&self, request: Request<Body>) -> Reply {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let path = parts.uri.path().to_owned();
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(format!("{} {}", parts.method, parts.uri));
            state.fault.as_mut().and_then(|fault| fault(&parts.method, &path))
        };
        if let Some(code) = fault {
            return failure(code, "injected");
        }
        if query.contains_key("watch") {
            return self.watch(&path, query.get("resourceVersion").map_or("0", String::as_str));
        }
        let reply = self.state.lock().unwrap().answer(&parts.method, &path, &query, &body);
        self.live.send(()).ok();
        reply
    }

    fn watch(&self, path: &str, from: &str) -> Reply {
        let from: u64 = from.parse().unwrap_or(0);
        if from < self.state.lock().unwrap().floor {
            return failure(410, "Expired");
        }
        let (state, prefix) = (Arc::clone(&self.state), collection_prefix(path));
        let (wakes, cut) = (self.live.subscribe(), self.cut.subscribe());
        let frames = futures::stream::unfold((from, wakes, cut), move |(after, mut wakes, mut cut)| {
            let (state, prefix) = (Arc::clone(&state), prefix.clone());
            async move {
                loop {
                    let (frame, last) = state.lock().unwrap().frames(&prefix, after);
                    if !frame.is_empty() {
                        return Some((Ok::<_, Infallible>(http_body::Frame::data(frame.into())), (last, wakes, cut)));
                    }
                    tokio::select! {
                        _ = cut.recv() => return None,
                        _ = wakes.recv() => {}
                    }
                }
            }
        });
        let body = StreamBody::new(frames.boxed());
        Response::new(BodyExt::boxed_unsync(body))
    }
}

impl State {
    fn complete(&mut self, path: &str, object: &mut Value) {
        let number = self.version + 1;
        let meta = &mut object["metadata"];
        meta["name"] = json!(path.rsplit('/').next());
        if let Some(namespace) = path.split("/namespaces/").nth(1).and_then(|rest| rest.split_once('/')) {
            meta["namespace"] = json!(namespace.0);
        }
        meta["uid"] = json!(format!("uid-{number}"));
        meta["generation"] = json!(1);
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
    }

    fn put(&mut self, path: &str, mut object: Value, event: &'static str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if let Some(old) = self.objects.get(path)
            && old["spec"] != object["spec"]
        {
            object["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        let finalizers = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if !object["metadata"]["deletionTimestamp"].is_null() && !finalizers {
            self.objects.remove(path);
            self.history.push((self.version, "DELETED", self_path(path, &object)));
            return object;
        }
        self.objects.insert(path.to_owned(), object.clone());
        self.history.push((self.version, event, self_path(path, &object)));
        object
    }

    fn remove(&mut self, path: &str) {
        if let Some(mut object) = self.objects.remove(path) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.history.push((self.version, "DELETED", self_path(path, &object)));
        }
    }

    /// What a watch of `prefix` shows after a version: lines, and the last version looked at.
    fn frames(&self, prefix: &(String, String), after: u64) -> (String, u64) {
        let mut text = String::new();
        for (version, event, object) in self.history.iter().filter(|(version, ..)| *version > after) {
            let path = object["fakePath"].as_str().unwrap();
            if in_collection(path, prefix) {
                let mut object = object.clone();
                object.as_object_mut().unwrap().remove("fakePath");
                text.push_str(&json!({ "type": event, "object": object }).to_string());
                text.push('\n');
            }
            let _ = version;
        }
        (text, self.version)
    }

    fn answer(&mut self, method: &Method, path: &str, query: &BTreeMap<String, String>, body: &[u8]) -> Reply {
        let (main, status) = path.strip_suffix("/status").map_or((path, false), |main| (main, true));
        let sent: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        match *method {
            Method::GET if self.objects.contains_key(main) => success(&self.objects[main]),
            Method::GET if is_collection(main) => self.list(main, query),
            Method::POST => {
                let path = format!("{main}/{}", sent["metadata"]["name"].as_str().unwrap_or_default());
                if self.objects.contains_key(&path) {
                    return failure(409, "AlreadyExists");
                }
                let mut object = sent;
                self.complete(&path, &mut object);
                success(&self.put(&path, object, "ADDED"))
            }
            Method::PATCH if self.objects.contains_key(main) => self.patch(main, status, sent),
            Method::DELETE if self.objects.contains_key(main) => {
                let mut object = self.objects[main].clone();
                if !sent["preconditions"]["uid"].is_null() && sent["preconditions"]["uid"] != object["metadata"]["uid"]
                {
                    return failure(409, "Conflict");
                }
                if object["metadata"]["deletionTimestamp"].is_null() {
                    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                    object = self.put(main, object, "MODIFIED");
                }
                success(&object)
            }
            _ => failure(404, "NotFound"),
        }
    }

    fn patch(&mut self, path: &str, status: bool, mut sent: Value) -> Reply {
        let old = self.objects[path].clone();
        let asked = &sent["metadata"]["resourceVersion"];
        if !asked.is_null() && *asked != old["metadata"]["resourceVersion"] {
            return failure(409, "Conflict");
        }
        if let Some(fields) = sent.as_object_mut() {
            fields.retain(|name, _| (name == "status") == status);
        }
        let mut new = old.clone();
        json_patch::merge(&mut new, &sent);
        if new == old {
            return success(&old);
        }
        success(&self.put(path, new, "MODIFIED"))
    }

    fn list(&self, path: &str, query: &BTreeMap<String, String>) -> Reply {
        let prefix = collection_prefix(path);
        let label = query.get("labelSelector").map(|text| text.replace("%2F", "/").replace("%3D", "="));
        let wanted = |object: &Value| {
            label
                .as_deref()
                .and_then(|label| label.split_once('='))
                .is_none_or(|(name, value)| object["metadata"]["labels"][name] == value)
        };
        let all: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(path, object)| in_collection(path, &prefix) && wanted(object))
            .map(|(_, object)| object)
            .collect();
        let limit: usize = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let start: usize = query.get("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
        let page: Vec<&Value> = all.iter().skip(start).take(limit).copied().collect();
        let more = start + page.len() < all.len();
        success(&json!({
            "kind": "List", "apiVersion": "v1", "items": page,
            "metadata": {
                "resourceVersion": self.version.to_string(),
                "continue": if more { (start + page.len()).to_string() } else { String::new() },
            },
        }))
    }
}

/// The object with its own path beside it, for the history.
fn self_path(path: &str, object: &Value) -> Value {
    let mut object = object.clone();
    object["fakePath"] = json!(path);
    object
}

/// What comes before and after the namespace in the paths of a collection's objects.
fn collection_prefix(path: &str) -> (String, String) {
    match path.rsplit_once('/') {
        Some((base, plural)) => (base.to_owned(), plural.to_owned()),
        None => (path.to_owned(), String::new()),
    }
}

fn in_collection(path: &str, (base, plural): &(String, String)) -> bool {
    let Some(rest) = path.strip_prefix(base.as_str()).and_then(|rest| rest.strip_prefix('/')) else { return false };
    let parts: Vec<&str> = rest.split('/').collect();
    match parts.as_slice() {
        [kind, _] => kind == plural,
        ["namespaces", _, kind, _] => kind == plural && !base.contains("/namespaces/"),
        _ => false,
    }
}

fn is_collection(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => matches!(rest, [_] | ["namespaces", _, _]),
        _ => false,
    }
}

fn success(object: &Value) -> Reply {
    reply(StatusCode::OK, object)
}

fn failure(code: u16, reason: &str) -> Reply {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                         "reason": reason, "message": format!("as the test asked: {reason}"), "code": code });
    reply(StatusCode::from_u16(code).unwrap(), &status)
}

fn reply(code: StatusCode, body: &Value) -> Reply {
    let body = http_body_util::Full::new(Bytes::from(body.to_string()));
    Response::builder().status(code).body(BodyExt::boxed_unsync(body)).unwrap()
}
