//! `pods/NAME/exec` through a node agent of the test's own: what is refused, and what is said over the WebSocket.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt, stream};
use http::{Method, Request};
use http_body_util::Full;
use mainstay_api::exec::{ExecEnd, ExecFrame, ExecRequest, TerminalSize, units};
use mainstay_apiserver::Identity;
use mainstay_apiserver::nodelink::{ExecFrames, LinkError, LogOptions, LogStream, NodeLink};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::harness::{Harness, PATIENCE, collect};
use crate::tls::{connect, listen};

const PODS: &str = "/api/v1/namespaces/default/pods";
const GOOD: &str = "command=sh&command=-c&stdout=1";

/// What an agent was asked, what it hears, and how it answers.
type Asked = (ExecRequest, UnboundedReceiver<ExecFrame>, UnboundedSender<ExecFrame>);

/// An agent that says what a test tells it to, and tells of what it hears.
#[derive(Debug)]
struct Link {
    asked: UnboundedSender<Asked>,
}

impl NodeLink for Link {
    fn logs(&self, _: &str, _: LogOptions) -> BoxFuture<'_, Result<LogStream, LinkError>> {
        async { Err(LinkError::NoSuchLog) }.boxed()
    }

    fn exec(&self, request: ExecRequest, input: ExecFrames) -> BoxFuture<'_, Result<ExecFrames, LinkError>> {
        async move {
            if request.command == ["full"] {
                return Err(LinkError::TooMany);
            }
            let ((hear, heard), (say, mut said)) = (unbounded_channel(), unbounded_channel());
            self.asked.send((request, heard, say)).unwrap();
            let said = stream::poll_fn(move |context| said.poll_recv(context)).map(Ok).map(Some);
            // As an agent's: it hears only while somebody takes its answer, and takes what it hears.
            let heard = input.filter_map(move |frame| {
                let taken = match &frame {
                    Ok(ExecFrame::Stdin(bytes)) => Some(Some(Ok(ExecFrame::Taken(units(bytes.len()))))),
                    _ => None,
                };
                hear.send(frame.unwrap()).ok();
                std::future::ready(taken)
            });
            let end = || stream::iter([None]);
            let both = stream::select(said.chain(end()), heard.chain(end()));
            Ok(both.take_while(|one| std::future::ready(one.is_some())).filter_map(std::future::ready).boxed())
        }
        .boxed()
    }
}

/// A Pod that is said to run, and what its node is asked.
async fn running() -> (Harness, UnboundedReceiver<Asked>) {
    let api = Harness::new().await;
    let container = json!({"name": "agent", "command": ["true"]});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [container], "nodeName": "local"}});
    api.post(PODS, &pod).await.expect(201);
    api.merge(&format!("{PODS}/p/status"), &json!({"status": {"phase": "Running"}})).await.expect(200);
    let (asked, asking) = unbounded_channel();
    api.server.set_node_link("local", Arc::new(Link { asked }));
    (api, asking)
}

async fn asked(api: &Harness, method: Method, query: &str, headers: &[(&str, &str)], status: u16, words: &str) {
    let mut request = Request::builder().method(method).uri(format!("{PODS}/{query}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = api.send(Identity::admin(), request.body(Full::default()).unwrap()).await;
    collect(response).await.refused(status, words);
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_and_the_reason_is_named() {
    let (api, mut asking) = running().await;
    let websocket = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
    ];
    let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    for (query, status, words) in [
        ("p/exec?stdout=1", 400, "command: you must specify at least one command"),
        ("p/exec?command=&stdout=1", 400, "command: the program has no name"),
        ("p/exec?command=a%00b&stdout=1", 400, "command: no word of it may hold a NUL"),
        ("p/exec?command=sh", 400, "stdin, stdout, stderr: you must specify at least one"),
        ("p/exec?command=sh&stderr=1&tty=1", 400, "stdin, stdout, stderr: you must specify at least one"),
        ("p/exec?command=sh&tty=perhaps", 400, "tty: \"perhaps\" is not true or false"),
        ("p/exec?command=sh&stdout=1&container=other", 400, "container other is not valid for pod p"),
        ("none/exec?command=sh&stdout=1", 404, "pods \"none\" not found"),
    ] {
        // kubectl asks by SPDY for the reason of what was refused it by WebSocket.
        asked(&api, Method::GET, query, &websocket, status, words).await;
        asked(&api, Method::POST, query, &spdy, status, words).await;
    }
    let good = format!("p/exec?{GOOD}");
    asked(&api, Method::POST, &good, &spdy, 400, "kubectl 1.30 or newer is needed").await;
    asked(&api, Method::GET, &good, &[], 400, "Upgrade: websocket is missing").await;
    asked(&api, Method::POST, &good, &websocket, 400, "by GET").await;
    asked(&api, Method::GET, &good, &websocket[..4], 400, "v5.channel.k8s.io and v4.channel.k8s.io").await;
    asked(&api, Method::GET, &good, &websocket, 400, "cannot be upgraded: use HTTP/1.1").await;
    asked(&api, Method::DELETE, &good, &websocket, 405, "").await;
    for phase in ["Pending", "Succeeded", "Failed"] {
        api.merge(&format!("{PODS}/p/status"), &json!({"status": {"phase": phase}})).await.expect(200);
        asked(&api, Method::GET, &good, &websocket, 400, &format!("is not running: status.phase is {phase}")).await;
    }
    api.merge(&format!("{PODS}/p/status"), &json!({"status": {"phase": "Running"}})).await.expect(200);
    let stop = json!({"metadata": {"annotations": {"mainstay.dev/stop": "true"}}});
    api.merge(&format!("{PODS}/p"), &stop).await.expect(200);
    asked(&api, Method::GET, &good, &websocket, 409, "is being stopped").await;
    let held = json!({"metadata": {"annotations": {"mainstay.dev/stop": null}, "finalizers": ["mainstay.dev/node"]}});
    api.merge(&format!("{PODS}/p"), &held).await.expect(200);
    api.delete(&format!("{PODS}/p")).await;
    asked(&api, Method::GET, &good, &websocket, 409, "is being deleted").await;
    assert!(asking.try_recv().is_err(), "its node was asked for none of these");
}

#[tokio::test]
async fn a_node_that_is_away_is_named() {
    let api = Harness::new().await;
    let container = json!({"name": "agent", "command": ["true"]});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [container], "nodeName": "far"}});
    api.post(PODS, &pod).await.expect(201);
    api.merge(&format!("{PODS}/p/status"), &json!({"status": {"phase": "Running"}})).await.expect(200);
    let words = "the agent of node \"far\" is not connected";
    asked(&api, Method::GET, &format!("p/exec?{GOOD}"), &[], 503, words).await;
}

/// A client of ours, over TLS.
struct Client(WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>);

impl Client {
    async fn open(api: &Harness, query: &str, protocol: &str) -> Self {
        let address = listen(api).await;
        let mut stream = connect(api, address).await;
        let token = api.admin_token();
        let request = format!(
            "GET {PODS}/p/exec?{query} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-protocol: {protocol}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        let spoken = if protocol.contains("v5") { "v5" } else { "v4" };
        assert!(head.contains(&format!("sec-websocket-protocol: {spoken}.channel.k8s.io\r\n")), "{head}");
        Self(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
    }

    async fn say(&mut self, channel: u8, bytes: &[u8]) {
        self.0.send(Message::Binary([&[channel], bytes].concat().into())).await.unwrap();
    }

    async fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("it says nothing") {
                Some(Ok(Message::Binary(bytes))) => return Some((bytes[0], bytes[1..].to_vec())),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    async fn status(&mut self) -> Value {
        let (channel, bytes) = self.hear().await.unwrap();
        assert_eq!(channel, 3);
        serde_json::from_slice(&bytes).unwrap()
    }
}

async fn next<T>(from: &mut UnboundedReceiver<T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, from.recv()).await.expect("it never comes")
}

#[tokio::test]
async fn channels_are_carried_both_ways_until_the_end() {
    let (api, mut asking) = running().await;
    let mut client =
        Client::open(&api, &format!("{GOOD}&stdin=1&stderr=1"), "v4.channel.k8s.io, v5.channel.k8s.io").await;
    let (request, mut heard, say) = next(&mut asking).await.unwrap();
    assert_eq!((request.command.as_slice(), request.tty), (&["sh".to_owned(), "-c".to_owned()][..], false));
    assert!(request.stdin && request.stdout && request.stderr && request.pod_uid.len() == 36);
    client.say(0, b"in").await;
    assert_eq!(next(&mut heard).await, Some(ExecFrame::Stdin("in".into())));
    client.say(4, br#"{"Width":80,"Height":24}"#).await;
    assert_eq!(next(&mut heard).await, Some(ExecFrame::Resize(TerminalSize { width: 80, height: 24 })));
    // What has no meaning has none.
    client.say(9, b"?").await;
    client.say(4, b"?").await;
    client.say(255, &[7]).await;
    client.0.send(Message::Ping("still there".into())).await.unwrap();
    client.say(0, &vec![7; 100_000]).await;
    let mut long = 0;
    while long < 100_000 {
        let Some(ExecFrame::Stdin(bytes)) = next(&mut heard).await else { panic!("something else") };
        assert!(bytes.len() <= 32 << 10);
        long += bytes.len();
    }
    client.say(255, &[0]).await;
    assert_eq!(next(&mut heard).await, Some(ExecFrame::StdinEnd));
    say.send(ExecFrame::Stdout("out".into())).unwrap();
    say.send(ExecFrame::Stderr("err".into())).unwrap();
    say.send(ExecFrame::End(ExecEnd { code: Some(3), ..ExecEnd::default() })).unwrap();
    assert_eq!(client.hear().await, Some((1, b"out".to_vec())));
    assert_eq!(client.hear().await, Some((2, b"err".to_vec())));
    let status = client.status().await;
    assert_eq!(
        (&status["reason"], &status["details"]["causes"][0]["message"]),
        (&json!("NonZeroExitCode"), &json!("3"))
    );
    assert_eq!(client.hear().await, None, "it is closed");
}

#[tokio::test]
async fn each_side_that_goes_ends_the_other() {
    let (api, mut asking) = running().await;
    // The client.
    let client = Client::open(&api, GOOD, "v5.channel.k8s.io").await;
    let (_, mut heard, say) = next(&mut asking).await.unwrap();
    drop(client);
    assert_eq!(next(&mut heard).await, None);
    tokio::time::timeout(PATIENCE, say.closed()).await.unwrap();
    // The node, without a word.
    let mut client = Client::open(&api, GOOD, "v4.channel.k8s.io").await;
    let (_, mut heard, say) = next(&mut asking).await.unwrap();
    // In v4 nothing is closed.
    client.say(255, &[0]).await;
    client.say(0, b"x").await;
    assert_eq!(next(&mut heard).await, Some(ExecFrame::Stdin("x".into())));
    drop(say);
    let status = client.status().await;
    assert!(status["message"].as_str().unwrap().contains("is not known") && status["status"] == "Failure", "{status}");
    // It refuses.
    let mut client = Client::open(&api, "command=full&stdout=1", "v5.channel.k8s.io").await;
    assert_eq!(client.status().await["message"], "too many commands run on the node");
    // A message that is too long.
    let mut client = Client::open(&api, GOOD, "v5.channel.k8s.io").await;
    let (_, mut heard, _say) = next(&mut asking).await.unwrap();
    client.0.send(Message::Binary(vec![0; 2 << 20].into())).await.ok();
    assert_eq!(next(&mut heard).await, None);
    // The server.
    let mut client = Client::open(&api, GOOD, "v5.channel.k8s.io").await;
    let (_, mut heard, _say) = next(&mut asking).await.unwrap();
    api.tasks.stop();
    assert!(client.status().await["message"].as_str().unwrap().contains("the server stops"));
    assert_eq!(next(&mut heard).await, None);
    drop(client);
    api.tasks.shutdown(PATIENCE).await.unwrap();
}
