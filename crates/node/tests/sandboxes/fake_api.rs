//! A stand-in for the relay and the API behind it: messages and the heartbeat row of one session, over a Unix socket.

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The session's state, which survives the listener.
#[derive(Debug, Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Value>,
    ids: HashMap<String, u64>,
    heartbeat: Value,
    heartbeats: Vec<Value>,
    authorizations: Vec<String>,
    fail_after_store: u32,
    too_fast: u32,
}

/// A listener; dropping it ends it and all its connections.
#[derive(Debug)]
pub(crate) struct Listening(CancellationToken);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        let state = State { heartbeat: json!({ "run": 0 }), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::channel(0).0 }
    }

    /// Serves on `dir/api.sock`, as the relay would.
    #[expect(clippy::disallowed_methods, reason = "a test's server ends with the test's runtime")]
    pub(crate) fn listen(&self, dir: &Path) -> Listening {
        let path = dir.join("api.sock");
        std::fs::remove_file(&path).ok();
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let stop = CancellationToken::new();
        let (api, stopped) = (self.clone(), stop.clone());
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let api = api.clone();
                let service = service_fn(move |request| api.clone().serve(request));
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(stopped.clone().run_until_cancelled_owned(served));
            }
        }));
        Listening(stop)
    }

    /// The next `count` appends are stored but answered with an error.
    pub(crate) fn lose_answers(&self, count: u32) {
        self.state.lock().unwrap().fail_after_store = count;
    }

    /// The next `count` appends are too much for now, and may come again a second later.
    pub(crate) fn hold_off(&self, count: u32) {
        self.state.lock().unwrap().too_fast = count;
    }

    /// A user's message.
    pub(crate) fn say(&self, text: &str) -> u64 {
        let id = format!("user-{}", self.state.lock().unwrap().messages.len());
        self.append(&json!({ "id": id, "type": "user", "run": 1, "text": text })).0
    }

    pub(crate) fn messages(&self) -> Vec<Value> {
        self.state.lock().unwrap().messages.clone()
    }

    /// Texts of the messages of one type.
    pub(crate) fn texts(&self, kind: &str) -> Vec<String> {
        let messages = self.messages();
        let of_kind = messages.iter().filter(|message| message["type"] == kind);
        of_kind.map(|message| message["text"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Bytes of text that the agent has said.
    pub(crate) fn agent_bytes(&self) -> usize {
        let state = self.state.lock().unwrap();
        let said = state.messages.iter().filter(|message| message["type"] == "agent");
        said.map(|message| message["text"].as_str().map_or(0, str::len)).sum()
    }

    pub(crate) fn heartbeat(&self) -> Value {
        self.state.lock().unwrap().heartbeat.clone()
    }

    pub(crate) fn heartbeats(&self) -> Vec<Value> {
        self.state.lock().unwrap().heartbeats.clone()
    }

    pub(crate) fn authorizations(&self) -> Vec<String> {
        self.state.lock().unwrap().authorizations.clone()
    }

    fn append(&self, message: &Value) -> (u64, bool) {
        let mut state = self.state.lock().unwrap();
        let id = message["id"].as_str().unwrap().to_owned();
        if let Some(number) = state.ids.get(&id) {
            return (*number, true);
        }
        let number = state.messages.len() as u64 + 1;
        let mut message = message.clone();
        message["number"] = json!(number);
        state.ids.insert(id, number);
        state.messages.push(message);
        drop(state);
        self.changed.send_modify(|version| *version += 1);
        (number, false)
    }

    async fn serve(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        self.state.lock().unwrap().authorizations.push(authorization.unwrap_or_default().to_owned());
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let base = "/apis/mainstay.dev/v1alpha1/namespaces/demo/sessions/fix";
        let method = request.method().clone();
        if path == format!("{base}/messages") && method == Method::GET {
            return Ok(self.read(&query));
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (status, answer) = match (method, path.strip_prefix(base)) {
            (Method::POST, Some("/messages")) => self.post(&body),
            (Method::PUT, Some("/heartbeat")) => self.put(body),
            (Method::GET, Some("/heartbeat")) => (StatusCode::OK, self.heartbeat()),
            _ => (StatusCode::NOT_FOUND, json!({})),
        };
        let body = Full::new(Bytes::from(answer.to_string())).boxed_unsync();
        Ok(Response::builder().status(status).header("retry-after", "1").body(body).unwrap())
    }

    fn post(&self, body: &Value) -> (StatusCode, Value) {
        let messages = body["messages"].as_array().unwrap();
        assert!(messages.len() <= 256);
        if messages.iter().any(|message| message["text"].as_str().unwrap().contains("REFUSE ME")) {
            return (StatusCode::UNPROCESSABLE_ENTITY, json!({}));
        }
        if self.is_held_off() {
            return (StatusCode::TOO_MANY_REQUESTS, json!({}));
        }
        for message in messages {
            self.append(message);
        }
        let mut state = self.state.lock().unwrap();
        if state.fail_after_store > 0 {
            state.fail_after_store -= 1;
            return (StatusCode::SERVICE_UNAVAILABLE, json!({}));
        }
        (StatusCode::OK, json!({ "messages": [], "last": state.messages.len() }))
    }

    fn is_held_off(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let left = state.too_fast;
        state.too_fast = left.saturating_sub(1);
        left > 0
    }

    fn put(&self, body: Value) -> (StatusCode, Value) {
        let mut state = self.state.lock().unwrap();
        state.heartbeat.clone_from(&body);
        state.heartbeats.push(body.clone());
        (StatusCode::OK, body)
    }

    fn read(&self, query: &str) -> Response<Body> {
        let value = |name: &str| {
            let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_default().to_owned()
        };
        assert_eq!(value("types"), "user");
        let (after, follow): (u64, bool) = (value("after").parse().unwrap(), value("follow") == "true");
        let (api, changes) = (self.clone(), self.changed.subscribe());
        let lines = stream::unfold((after, changes, false), move |(mut after, mut changes, ended)| {
            let api = api.clone();
            async move {
                if ended {
                    return None;
                }
                loop {
                    changes.borrow_and_update();
                    let news = api.messages().into_iter().filter(|message| message["number"].as_u64().unwrap() > after);
                    let news: Vec<_> = news.filter(|message| message["type"] == "user").collect();
                    if !news.is_empty() || !follow {
                        after = news.last().map_or(after, |message| message["number"].as_u64().unwrap());
                        let text = news.iter().fold(String::new(), |text, message| text + &format!("{message}\n"));
                        return Some((text, (after, changes, !follow)));
                    }
                    if tokio::time::timeout(Duration::from_secs(15), changes.changed()).await.is_err() {
                        return Some(("\n".to_owned(), (after, changes, false)));
                    }
                }
            }
        });
        let body = StreamBody::new(lines.map(|text| Ok(Frame::data(Bytes::from(text))))).boxed_unsync();
        Response::new(body)
    }
}
