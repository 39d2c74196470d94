//! Against a server in memory that loses connections, restarts and expires.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::json;

use mainstay_runtime::failure::{Class, Classify as _};

use super::watch::Seen;
use super::*;

/// Answers in order: status and body. What was asked is kept.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn of(answers: &[(u16, String)]) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.iter().cloned().collect())), ..Self::default() }
    }

    fn server(&self) -> Server {
        let script = self.clone();
        Server::over(Client::new(
            tower::service_fn(move |request: Request<Body>| {
                let asked = format!("{} {}", request.method(), request.uri());
                script.asked.lock().unwrap().push(asked);
                let (status, body) = script.answers.lock().unwrap().pop_front().unwrap_or((500, "no more".to_owned()));
                async move {
                    Ok::<_, Infallible>(
                        Response::builder().status(status).body(Body::from(Bytes::from(body).to_vec())).unwrap(),
                    )
                }
            }),
            "ns",
        ))
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn event(kind: &str, revision: u64) -> String {
    let event = json!({"type": kind, "object": {"metadata": {"name": "x", "resourceVersion": revision.to_string()}}});
    format!("{event}\n")
}

#[tokio::test(start_paused = true)]
async fn a_read_is_repeated_while_the_server_is_busy() {
    let script = Script::of(&[(503, String::new()), (429, String::new()), (200, "{\"a\":1}".to_owned())]);
    assert_eq!(script.server().get("/x").await.unwrap(), json!({"a": 1}));
    assert_eq!(script.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_have_been_carried_out_is_not_repeated() {
    let script = Script::of(&[(500, String::new()), (201, "{}".to_owned())]);
    let error = script.server().call(Call::post("/x", &json!({}), Repeat::Never)).await.unwrap_err();
    assert_eq!(error.code(), Some(500));
    assert_eq!(script.asked().len(), 1);
}

/// R41.
#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_ended_and_tells_of_gaps() {
    let script = Script::of(&[
        (200, event("ADDED", 5) + &event("BOOKMARK", 9)),
        (503, String::new()),
        (200, event("MODIFIED", 10)),
        (410, json!({"kind": "Status", "code": 410}).to_string()),
    ]);
    let server = script.server();
    let mut watch = server.watch("/w?a=b", "application/json", "3");
    let Seen::Change(change, object) = watch.next().await.unwrap() else { panic!("a gap") };
    assert_eq!((change.as_str(), &object["metadata"]["resourceVersion"]), ("ADDED", &json!("5")));
    assert!(matches!(watch.next().await.unwrap(), Seen::Change(change, _) if change == "MODIFIED"));
    assert!(matches!(watch.next().await.unwrap(), Seen::Restarted));
    let revisions: Vec<_> = script.asked().iter().map(|asked| asked.rsplit('=').next().unwrap().to_owned()).collect();
    assert_eq!(revisions, ["3", "9", "9", "10"]);
}

/// R9.
#[tokio::test(start_paused = true)]
async fn waiting_ends_at_its_deadline() {
    let list = json!({"items": [], "metadata": {"resourceVersion": "1"}}).to_string();
    let script = Script::of(&[(200, list)]);
    let server = script.server();
    let deadline = Some(tokio::time::Instant::now() + Duration::from_secs(5));
    let error = server.wait_for("/x", "rain", deadline, |found| found.map(|_| ())).await.unwrap_err();
    assert_eq!(error.to_string(), "timed out waiting for rain");
}

#[tokio::test]
async fn a_server_of_another_make_is_refused() {
    let script = Script::of(&[(200, json!({"gitVersion": "v1.35.0"}).to_string())]);
    let error = script.server().version().await.unwrap_err().to_string();
    assert!(error.contains("is not a Mainstay server"), "{error}");
}

#[tokio::test]
async fn an_error_says_which_fields_are_wrong() {
    let status =
        json!({"kind": "Status", "message": "m", "details": {"causes": [{"field": "spec.x", "message": "bad"}]}});
    let script = Script::of(&[(422, status.to_string())]);
    let CallError::Refused(refusal) = script.server().get("/x").await.unwrap_err() else { panic!("refused") };
    assert_eq!((refusal.message.as_str(), refusal.causes), ("m", vec![("spec.x".to_owned(), "bad".to_owned())]));
}

/// A server that accepts, reads of each request, says `words`, and nothing more. `then`: such as time passing.
async fn stalled(words: &'static str, then: fn()) -> Server {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    mainstay_runtime::Tasks::new().spawn("stalled", async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
            stream.write_all(words.as_bytes()).await.unwrap();
            held.push(stream);
            then();
        }
    });
    let config = kube::Config::new(url.parse().unwrap());
    let client = |idle| mainstay_runtime::client::remote(&config, idle).unwrap();
    Server {
        calls: client(CALL_DEADLINE),
        streams: client(STREAM_IDLE),
        authority: None,
        url,
        namespace: "ns".to_owned(),
    }
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";

#[tokio::test]
async fn a_stalled_server_ends_each_call_of_the_command_line() {
    for words in ["", "HTTP/1.1 200", HEAD] {
        for repeat in [Repeat::Harmless, Repeat::Never] {
            let server = stalled(words, tokio::time::pause).await;
            let began = tokio::time::Instant::now();
            let error = server.call(Call::post("/x", &json!({}), repeat)).await.unwrap_err();
            assert_eq!(error.class(), Class::Indeterminate, "{error}");
            assert!(began.elapsed() <= CALL_DEADLINE * 2, "{:?}", began.elapsed());
            tokio::time::resume();
        }
    }
}

#[tokio::test]
async fn a_stream_that_stalls_ends_when_it_was_silent_for_too_long() {
    let mut lines = stalled(HEAD, || {}).await.open("/x", call::JSON).await.unwrap();
    let began = tokio::time::Instant::now();
    tokio::time::pause();
    let error = lines.next().await.unwrap_err();
    assert_eq!(error.class(), Class::Indeterminate, "{error}");
    assert!(began.elapsed() <= STREAM_IDLE + CALL_DEADLINE, "{:?}", began.elapsed());
    tokio::time::resume();
    assert!(stalled("", tokio::time::pause).await.open("/x", call::JSON).await.is_err());
}

#[tokio::test]
async fn without_tls_the_command_line_calls_this_machine_only() {
    let config = kube::Config::new("http://192.0.2.1:1".parse().unwrap());
    let client = mainstay_runtime::client::remote(&config, CALL_DEADLINE).unwrap();
    let error = Server::over(client).get("/version").await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    assert!(mainstay_runtime::failure::chain_of(&error).contains("https"), "and says why");
}
