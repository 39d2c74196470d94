#![expect(clippy::disallowed_methods, reason = "a test is its own peer, and speaks to the server without our client")]

use std::sync::Mutex;

use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1 as client;
use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::agent::token::tests::forged;
use crate::launch::{PodRef, SessionRef};

const OWN: &str = "/apis/mainstay.dev/v1alpha1/namespaces/web/sessions/fix";
const DEADLINE: Duration = Duration::from_secs(10);

/// An API that answers everything, and what has reached it.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<(http::request::Parts, Bytes)>>>);

impl Recorder {
    fn api(&self, status: u16) -> Api {
        let recorder = self.clone();
        Api::new(tower::service_fn(move |request: Request<Body>| {
            let recorder = recorder.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                recorder.0.lock().unwrap().push((parts, body));
                let mut answer = Response::new(whole("{}"));
                *answer.status_mut() = http::StatusCode::from_u16(status)?;
                for name in ["x-internal", "set-cookie", "retry-after"] {
                    answer.headers_mut().insert(name, http::HeaderValue::from_static("1"));
                }
                Ok(answer)
            }
        }))
    }

    fn taken(&self) -> Vec<(http::request::Parts, Bytes)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn whole(text: &'static str) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

fn token(session: &str) -> String {
    let bound = json!({ "bound": { "kind": "Session", "name": "fix", "uid": session } });
    forged(&json!({ "iat": 0, "exp": 1, "mainstay.dev": bound }))
}

fn own_uids() -> Range<u32> {
    let own = rustix::process::geteuid().as_raw();
    own..own + 1
}

struct Bench {
    dir: tempfile::TempDir,
    tasks: Tasks,
    heard: Arc<Heard>,
    wake: Arc<Notify>,
    recorder: Recorder,
    relay: Option<Relay>,
}

impl Bench {
    fn new(status: u16, uids: Range<u32>) -> Self {
        let wake = Arc::new(Notify::new());
        let mut bench = Self {
            // Longer than a socket's address may be.
            dir: tempfile::Builder::new().prefix(&"x".repeat(150)).tempdir().unwrap(),
            tasks: Tasks::new(),
            heard: Arc::new(Heard::new(wake.clone())),
            wake,
            recorder: Recorder::default(),
            relay: None,
        };
        bench.open(status, uids);
        bench
    }

    fn open(&mut self, status: u16, uids: Range<u32>) {
        let pod = PodRef { namespace: "web".into(), name: "fix-1".into(), uid: "u-1".into() };
        let session = SessionRef { name: "fix".into(), uid: "s-1".into(), run: 1, stop_on_finish: false };
        let door = Door { subject: Subject::new(&pod, &session), uids, owner: None, heard: self.heard.clone() };
        self.relay = Some(Relay::open(self.dir.path(), door, self.recorder.api(status), &self.tasks).unwrap());
    }

    async fn connect(&self) -> std::io::Result<UnixStream> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(self.dir.path(), flags, Mode::empty())?;
        UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())).await
    }

    /// Sends one request on a connection of its own; the answer's status, headers and body.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer, BoxError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn("client", connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "mainstay");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.to_owned()));
        let response = timeout(DEADLINE, sender.send_request(request.body(body)?)).await??;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
        Ok((parts.status.as_u16(), parts.headers, text))
    }

    async fn status(&self, method: &str, path: &str, authorization: &str) -> u16 {
        self.ask(method, path, &[("authorization", authorization)], "").await.unwrap().0
    }
}

type Answer = (u16, http::HeaderMap, String);

#[tokio::test]
async fn r49_only_the_own_session_is_reached() {
    let bench = Bench::new(200, own_uids());
    let own = format!("Bearer {}", token("s-1"));
    for (method, path) in [
        ("GET", OWN.to_owned()),
        ("GET", format!("{OWN}/messages?after=3&follow=true")),
        ("POST", format!("{OWN}/messages")),
        ("GET", format!("{OWN}/heartbeat")),
    ] {
        assert_eq!(bench.status(method, &path, &own).await, 200, "{method} {path}");
        let (parts, _) = bench.recorder.taken().remove(0);
        assert_eq!(parts.uri.to_string(), path);
    }
    let other = OWN.replace("/fix", "/other");
    for (method, path) in [
        ("GET", other.as_str()),
        ("GET", &format!("{other}/messages")),
        ("PUT", OWN),
        ("DELETE", OWN),
        ("PATCH", OWN),
        ("PUT", &format!("{OWN}/messages")),
        ("GET", &format!("{OWN}/")),
        ("GET", &format!("{OWN}x")),
        ("GET", &format!("{OWN}/../other")),
        ("GET", &format!("{OWN}/%6dessages")),
        ("GET", &format!("/{OWN}")),
        ("GET", "/api/v1/secrets"),
        ("GET", "/metrics"),
        ("OPTIONS", "*"),
    ] {
        assert_eq!(bench.status(method, path, &own).await, 403, "{method} {path}");
    }
    assert!(bench.recorder.taken().is_empty());
}

#[tokio::test]
async fn r42_only_the_own_sessions_token_passes() {
    let bench = Bench::new(200, own_uids());
    let not_a_session = forged(&json!({ "mainstay.dev": { "bound": { "kind": "Pod", "name": "fix", "uid": "s-1" } } }));
    for (authorization, expected) in [
        (format!("Bearer {}", token("s-2")), 403),
        (format!("Bearer {not_a_session}"), 403),
        (format!("Bearer {}", forged(&json!({}))), 403),
        ("Bearer rubbish".to_owned(), 401),
        ("Basic YTpi".to_owned(), 401),
        (String::new(), 401),
    ] {
        assert_eq!(bench.status("GET", OWN, &authorization).await, expected, "{authorization}");
    }
    let twice = format!("Bearer {}", token("s-1"));
    let headers = [("authorization", twice.as_str()), ("authorization", twice.as_str())];
    assert_eq!(bench.ask("GET", OWN, &headers, "").await.unwrap().0, 401);
    assert!(bench.recorder.taken().is_empty());
}

#[tokio::test]
async fn r43_only_listed_headers_pass_either_way() {
    let bench = Bench::new(200, own_uids());
    let own = format!("Bearer {}", token("s-1"));
    let headers = [
        ("authorization", own.as_str()),
        ("content-type", "application/json"),
        ("impersonate-user", "admin"),
        ("x-remote-group", "system:masters"),
        ("x-forwarded-for", "10.0.0.1"),
        ("cookie", "a=b"),
        ("mainstay-fence", "a/1"),
    ];
    let (_, answered, _) = bench.ask("POST", &format!("{OWN}/messages"), &headers, "{}").await.unwrap();
    assert!(answered.contains_key("retry-after"));
    assert!(!answered.contains_key("x-internal") && !answered.contains_key("set-cookie"));
    let (parts, body) = bench.recorder.taken().remove(0);
    let mut names: Vec<_> = parts.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!((names, &body[..]), (vec!["authorization", "content-type"], &b"{}"[..]));
    assert!(parts.extensions.is_empty(), "nothing of the connection is taken for an identity");
}

/// R48.
#[tokio::test]
async fn the_first_accepted_heartbeat_of_this_run_is_heard() {
    let own = format!("Bearer {}", token("s-1"));
    let path = format!("{OWN}/heartbeat");
    let beat = |run: u64, pod: &str| json!({ "run": run, "podUID": pod, "offered": 0, "delivered": 0 }).to_string();
    let refused = Bench::new(409, own_uids());
    let answer = refused.ask("PUT", &path, &[("authorization", &own)], &beat(1, "u-1")).await.unwrap();
    assert_eq!((answer.0, refused.heard.accepted()), (409, false));
    let bench = Bench::new(200, own_uids());
    for (body, status) in [(beat(2, "u-1"), 403), (beat(1, "u-2"), 403), ("{}".into(), 403), ("x".repeat(20_000), 400)]
    {
        let answer = bench.ask("PUT", &path, &[("authorization", &own)], &body).await.unwrap();
        assert_eq!((answer.0, bench.heard.accepted()), (status, false));
    }
    let answer = bench.ask("PUT", &path, &[("authorization", &own)], &beat(1, "u-1")).await.unwrap();
    assert_eq!(answer.0, 200);
    timeout(DEADLINE, bench.wake.notified()).await.unwrap();
    assert!(bench.heard.accepted());
}

#[tokio::test]
async fn sizes_and_strangers_are_refused() {
    let own = format!("Bearer {}", token("s-1"));
    let bench = Bench::new(200, own_uids());
    let large = "x".repeat(policy::BODY_LIMIT + 1);
    let answer = bench.ask("POST", &format!("{OWN}/messages"), &[("authorization", &own)], &large).await;
    assert!(answer.is_ok_and(|answer| answer.0 == 413));
    let strangers = Bench::new(200, 1..2);
    assert!(strangers.ask("GET", OWN, &[("authorization", &own)], "").await.is_err());
    assert!(bench.recorder.taken().is_empty() && strangers.recorder.taken().is_empty());
}

#[tokio::test]
async fn a_closed_relay_is_opened_anew_in_the_same_directory() {
    let own = format!("Bearer {}", token("s-1"));
    let mut bench = Bench::new(200, own_uids());
    assert_eq!(bench.status("GET", OWN, &own).await, 200);
    bench.relay = None;
    bench.open(200, own_uids());
    assert_eq!(bench.status("GET", OWN, &own).await, 200);
    bench.tasks.shutdown(DEADLINE).await.unwrap();
}
