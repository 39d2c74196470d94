//! Peers that take nothing, ask for nothing, or are too many.

#![expect(clippy::disallowed_methods, reason = "a test is its own peer, and speaks to the server without our client")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mainstay_apiserver::Limits;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::harness::{Harness, PATIENCE, configmap, configmaps};
use crate::tls::{connect, connector, listen};

const SHORT: Duration = Duration::from_millis(300);
/// Longer than any test: what happens within a test does not happen because of this.
const NEVER: Duration = Duration::from_hours(1);
/// What is written to watches that nobody reads: more than sockets take, in pieces of one object.
const PIECES: usize = 12;

/// A connection that tells apart what was asked of it and whether it is still there.
struct Client {
    requests: SendRequest<Full<Bytes>>,
    token: String,
    connection: tokio::task::JoinHandle<hyper::Result<()>>,
}

impl Client {
    async fn open(api: &Harness, address: SocketAddr, token: String) -> Self {
        let stream = TokioIo::new(connect(api, address).await);
        let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        // The window that the protocol begins with; it is made wider only by whoever reads.
        http.initial_stream_window_size(65_535);
        let (requests, connection) = http.handshake(stream).await.unwrap();
        let connection = api.tasks.spawn("client", connection);
        Self { requests, token, connection }
    }

    async fn get(&mut self, path: &str) -> http::Response<Incoming> {
        let request = Request::get(format!("https://localhost{path}"))
            .header("authorization", format!("Bearer {}", self.token))
            .body(Full::default())
            .unwrap();
        tokio::time::timeout(PATIENCE, self.requests.send_request(request)).await.unwrap().unwrap()
    }
}

/// Opens a watch over HTTP/1.1 through a socket that takes little, and reads no more of it than that it has begun.
async fn watch_and_stop_reading(api: &Harness, address: SocketAddr, path: &str) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let mut stream = connector(api).connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let token = api.admin_token();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stream
}

fn watchers(api: &Harness) -> u64 {
    api.store.stats().watchers
}

async fn write_much(api: &Harness) {
    for at in 0..PIECES {
        let mut big = configmap(&format!("c{at}"));
        big["data"]["k"] = "x".repeat(1_000_000).into();
        api.post(&configmaps(""), &big).await.expect(201);
    }
}

/// Waits until nothing of a watch is left: its place in the store, what waited for it, and its permit.
async fn until_left(api: &Harness, before: u64) {
    let left = async {
        loop {
            let text = api.get("/metrics").await.bytes;
            let closed = String::from_utf8_lossy(&text).contains("mainstay_open_streams 0\n");
            if watchers(api) == before && closed {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, left).await.expect("the watch is gone in time");
}

#[tokio::test]
async fn a_peer_of_http1_that_stops_reading_is_cut_off() {
    let api = Harness::with(Limits { stall: SHORT, ..Limits::default() }).await;
    let before = watchers(&api);
    let mut stream = watch_and_stop_reading(&api, listen(&api).await, &configmaps("?watch=1")).await;
    assert_eq!(watchers(&api), before + 1);
    write_much(&api).await;
    until_left(&api, before).await;
    // It reads on, and finds that it was cut off: it is not left with a watch in which something is missing.
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap_err();
    assert!(rest.len() < PIECES * 1_000_000);
}

#[tokio::test]
async fn a_stream_of_http2_whose_window_stays_shut_is_reset_and_no_other() {
    let api = Harness::with(Limits { stall: SHORT, ..Limits::default() }).await;
    let before = watchers(&api);
    let mut client = Client::open(&api, listen(&api).await, api.admin_token()).await;
    // One that reads, and one that waits for what does not come: both live on.
    let reads = client.get("/api/v1/namespaces?watch=1").await;
    let mut reads = reads.into_body();
    assert!(reads.frame().await.unwrap().is_ok());
    let shut = client.get(&configmaps("?watch=1")).await;
    write_much(&api).await;
    let gone = async {
        while watchers(&api) > before + 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the stalled watch is gone in time");
    let rest = tokio::time::timeout(PATIENCE, shut.into_body().collect()).await.unwrap();
    assert!(format!("{:?}", rest.unwrap_err()).contains("CANCEL"), "it is told that the stream was reset");
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "other"}})).await.expect(201);
    let seen = tokio::time::timeout(PATIENCE, reads.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
    assert!(seen.starts_with(b"{\"type\":\"ADDED\""));
    assert_eq!(client.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn a_list_over_http2_is_whole_however_large() {
    let api = Harness::new().await;
    write_much(&api).await;
    let mut client = Client::open(&api, listen(&api).await, api.admin_token()).await;
    let list = client.get(&configmaps("")).await;
    let length: usize = list.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let body = tokio::time::timeout(PATIENCE, list.into_body().collect()).await.unwrap().unwrap().to_bytes();
    let direct = api.get(&configmaps("")).await.bytes;
    assert!(length == body.len() && body == direct, "{length}, {}, {}", body.len(), direct.len());
}

#[tokio::test]
async fn a_right_that_is_withdrawn_and_the_end_of_its_time_end_a_watch_that_nobody_reads() {
    let limits = Limits { stall: NEVER, recheck: Duration::from_millis(50), ..Limits::default() };
    let api = Harness::with(limits).await;
    let address = listen(&api).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    api.post(accounts, &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let token = api.post(&format!("{accounts}/robot/token"), &json!({})).await.expect(201);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({
        "metadata": {"name": "reader"},
        "rules": [{"verbs": ["get", "watch"], "apiGroups": [""], "resources": ["configmaps"]}],
    });
    api.post(&format!("{rbac}/roles"), &role).await.expect(201);
    let binding = json!({
        "metadata": {"name": "robot"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
    });
    api.post(&format!("{rbac}/rolebindings"), &binding).await.expect(201);
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let mut client = Client::open(&api, address, token).await;
    // The first question loads the rights, which are watched, too.
    assert_eq!(client.get(&configmaps("/none")).await.status(), 404);
    let before = watchers(&api);
    let unread = client.get(&configmaps("?watch=1")).await;
    write_much(&api).await;
    assert_eq!(watchers(&api), before + 1, "it has taken what fits its window, and waits");
    api.delete(&format!("{rbac}/rolebindings/robot")).await.expect(200);
    until_left(&api, before).await;
    drop(unread);

    let unread = watch_and_stop_reading(&api, address, &configmaps("?watch=1&timeoutSeconds=1")).await;
    assert_eq!(watchers(&api), before + 1);
    write_much_again(&api).await;
    until_left(&api, before).await;
    drop(unread);
}

async fn write_much_again(api: &Harness) {
    for at in 0..PIECES {
        let label = json!({"metadata": {"labels": {"again": "yes"}}});
        api.merge(&configmaps(&format!("/c{at}")), &label).await.expect(200);
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_goes_on_is_closed_and_one_with_a_watch_is_not() {
    let api = Harness::with(Limits { header_read: SHORT, idle: SHORT, ..Limits::default() }).await;
    let address = listen(&api).await;
    let mut watching = Client::open(&api, address, api.admin_token()).await;
    let mut watch = watching.get(&configmaps("?watch=1")).await.into_body();
    let mut idle = Client::open(&api, address, api.admin_token()).await;
    assert_eq!(idle.get("/livez").await.status(), 200);
    tokio::time::timeout(PATIENCE, idle.connection).await.expect("closed in time").unwrap().unwrap();
    // And once more, so that the watch has been open for at least twice as long as silence may last.
    let mut idle = Client::open(&api, address, api.admin_token()).await;
    assert_eq!(idle.get("/livez").await.status(), 200);
    tokio::time::timeout(PATIENCE, idle.connection).await.expect("closed in time").unwrap().unwrap();
    api.post(&configmaps(""), &configmap("a")).await.expect(201);
    assert!(tokio::time::timeout(PATIENCE, watch.frame()).await.unwrap().unwrap().is_ok());
    assert_eq!(watching.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once() {
    let api = Harness::with(Limits { connections: 1, ..Limits::default() }).await;
    let address = listen(&api).await;
    let mut first = Client::open(&api, address, api.admin_token()).await;
    assert_eq!(first.get("/livez").await.status(), 200);
    let mut second = TcpStream::connect(address).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, second.read(&mut [0; 1])).await.expect("told in time");
    assert!(matches!(closed, Ok(0) | Err(_)));
    assert_eq!(first.get("/livez").await.status(), 200);
    let metrics = api.get("/metrics").await.bytes;
    assert!(String::from_utf8_lossy(&metrics).contains("mainstay_connections_refused_total 1\n"));
    drop(first.requests);
    tokio::time::timeout(PATIENCE, first.connection).await.unwrap().unwrap().unwrap();
    let served = async { while !exchange_or_nothing(&api, address).await.starts_with("HTTP/1.1 200") {} };
    tokio::time::timeout(PATIENCE, served).await.expect("there is room again");
}

async fn exchange_or_nothing(api: &Harness, address: SocketAddr) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    let Ok(mut stream) = connector(api).connect("localhost".try_into().unwrap(), stream).await else {
        return String::new();
    };
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
}
