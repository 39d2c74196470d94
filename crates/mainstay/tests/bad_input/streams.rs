//! Open watches have a limit, and those within it go on.

#![expect(clippy::disallowed_methods, reason = "a test is its own peer, and speaks to the server without our client")]

use super::*;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mainstay_runtime::Tasks;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What one identity may have open.
const LIMIT: usize = 1_024;

async fn connect(wire: &Wire, tasks: &Tasks) -> SendRequest<Empty<Bytes>> {
    let socket = TcpStream::connect(wire.address).await.unwrap();
    let name = ServerName::from(wire.address.ip());
    let stream = TlsConnector::from(wire.config("h2")).connect(name, socket).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    drop(tasks.spawn("connection", async move { drop(connection.await) }));
    sender
}

async fn watch(wire: &Wire, sender: &mut SendRequest<Empty<Bytes>>) -> http::Response<Incoming> {
    let uri = format!("https://{}{CONFIGMAPS}?watch=1&resourceVersion=1", wire.address);
    let request = http::Request::get(uri).header("authorization", format!("Bearer {}", wire.token));
    let response = sender.send_request(request.body(Empty::new()).unwrap());
    tokio::time::timeout(wire::PATIENCE, response).await.unwrap().unwrap()
}

/// The first line of a stream with these words.
async fn line_with(response: &mut http::Response<Incoming>, words: &str) -> String {
    let mut text = String::new();
    while !text.contains(words) {
        let frame = tokio::time::timeout(wire::PATIENCE, response.frame()).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&frame.unwrap().unwrap().into_data().unwrap()));
    }
    text
}

#[tokio::test]
async fn watches_beyond_the_limit_are_refused_and_the_others_go_on() {
    let bothered = Bothered::new();
    let (wire, tasks) = (bothered.wire.clone(), Tasks::new());
    let (mut one, mut other) = (connect(&wire, &tasks).await, connect(&wire, &tasks).await);
    let mut open = Vec::new();
    for n in 0..LIMIT {
        let response = watch(&wire, if n % 2 == 0 { &mut one } else { &mut other }).await;
        assert_eq!(response.status(), 200, "watch {n}");
        open.push(response);
    }
    for _ in 0..3 {
        let response = watch(&wire, &mut one).await;
        assert_eq!((response.status().as_u16(), response.headers()["retry-after"].as_bytes()), (429, &b"1"[..]));
        let body: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert!(
            body["message"].as_str().unwrap().contains("too many open watches and streams: 1024 of 1024"),
            "{body}"
        );
    }
    // Other requests are not concerned, and every watch sees what they do.
    wire.json("POST", CONFIGMAPS, &configmap("seen")).expect(201);
    for response in &mut open {
        line_with(response, "\"seen\"").await;
    }
    drop(open.pop());
    let deadline = tokio::time::Instant::now() + wire::PATIENCE;
    while watch(&wire, &mut other).await.status() != 200 {
        assert!(tokio::time::Instant::now() < deadline, "a place that was left is not given again");
    }
    drop((open, one, other));
    wire.call("DELETE", &format!("{CONFIGMAPS}/seen"), "", "").expect(200);
    tokio::task::spawn_blocking(|| bothered.stays_well()).await.unwrap();
}
