//! Peers that stall, at each point of a call: the call ends, when it says it does, and says what may have happened.
//!
//! Where time is paused it moves on when nothing else can, so a call that is given up after 30 s takes none. What must not be
//! hurried, as a connection that is to be made, happens before.

mod classes;
mod http2;

use std::net::SocketAddr;
use std::sync::Arc;

use ::http::Request;
use bytes::Bytes;
use rustls::RootCertStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::Instant;

use super::*;
use crate::Tasks;

const DEADLINE: Duration = Duration::from_secs(3);
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";

/// Accepts connections, reads a little of each request, says `words`, and then does as told.
async fn peer(words: &'static str, then: Then, tasks: &Tasks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("peer", async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = stream.read(&mut [0; 16]).await.unwrap();
            assert!(read > 0);
            stream.write_all(words.as_bytes()).await.unwrap();
            match then {
                Then::Stall => held.push(stream),
                Then::Close => drop(stream),
            }
        }
    });
    address
}

#[derive(Clone, Copy)]
enum Then {
    Stall,
    Close,
}

fn nobody() -> Http {
    Http::new(Trust::Only(Arc::new(RootCertStore::empty())), 128).unwrap()
}

async fn call(scheme: &str, address: SocketAddr) -> (Result<(), HttpError>, Duration) {
    let began = Instant::now();
    let request = Request::get(format!("{scheme}://{address}/")).body(Bytes::new()).unwrap();
    (nobody().call(request, DEADLINE).await.map(drop), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stalls_at_any_point_ends_the_call_at_its_deadline() {
    let tasks = Tasks::new();
    for (scheme, words) in [("http", ""), ("http", "HTTP/1.1 200"), ("http", HEAD), ("https", "")] {
        let (outcome, took) = call(scheme, peer(words, Then::Stall, &tasks).await).await;
        assert!(matches!(outcome, Err(HttpError::TooLate(DEADLINE))), "{scheme} {words}: {outcome:?}");
        assert_eq!(outcome.unwrap_err().class(), Class::Indeterminate);
        assert!((DEADLINE..DEADLINE * 2).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_means_that_nothing_was_sent() {
    let address = peer("", Then::Stall, &Tasks::new()).await;
    let request = Request::get(format!("https://{address}/")).body(Bytes::new()).unwrap();
    let error = nobody().call(request, CONNECT_TIMEOUT * 2).await.unwrap_err();
    assert!(matches!(error, HttpError::NotSent(_)), "{error:?}");
    assert_eq!(error.class(), Class::TRANSIENT);
}

#[tokio::test]
async fn what_may_have_arrived_is_in_doubt_and_what_cannot_have_is_not() {
    let tasks = Tasks::new();
    for words in ["", HEAD] {
        let error = call("http", peer(words, Then::Close, &tasks).await).await.0.unwrap_err();
        assert_eq!(error.class(), Class::Indeterminate, "{error:?}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(call("http", closed).await.0.unwrap_err().class(), Class::TRANSIENT);
    let away = "192.0.2.1:1".parse().unwrap();
    assert_eq!(call("http", away).await.0.unwrap_err().class(), Class::Terminal(Reason::Invalid));
    let long = peer("HTTP/1.1 200 OK\r\ncontent-length: 129\r\n\r\n", Then::Stall, &tasks).await;
    assert!(matches!(call("http", long).await.0, Err(HttpError::TooLarge(128))));
}

#[tokio::test]
async fn a_server_elsewhere_that_stalls_wedges_no_client_of_it() {
    for words in ["", HEAD] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = kube::Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let client = remote(&config, CALL_DEADLINE).unwrap();
        let began = Instant::now();
        let stall = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 16]).await.unwrap() > 0);
            stream.write_all(words.as_bytes()).await.unwrap();
            tokio::time::pause();
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            answer = client.apiserver_version() => answer.unwrap_err(),
            () = stall => unreachable!("it does not end"),
        };
        assert_eq!(class_of(&error), Class::Indeterminate, "{error:?}");
        assert!(began.elapsed() <= CALL_DEADLINE + DEADLINE, "{:?}", began.elapsed());
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_has_seen_nothing() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for url in [format!("http://{closed}"), "http://192.0.2.1:1".to_owned()] {
        let client = remote(&kube::Config::new(url.parse().unwrap()), CALL_DEADLINE).unwrap();
        assert_eq!(class_of(&client.apiserver_version().await.unwrap_err()), Class::TRANSIENT);
    }
}

/// The queue of a listener that accepts nothing fills up; then connecting neither succeeds nor fails.
#[tokio::test(start_paused = true)]
async fn a_socket_that_accepts_nothing_ends_the_call_that_connects() {
    let dir = std::env::temp_dir().join(format!("mainstay-unix-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let tasks = Tasks::new();
    let first = unix::connect(&path, 8192, DEADLINE, &tasks).await.unwrap();
    let began = Instant::now();
    let second = unix::connect(&path, 8192, DEADLINE, &tasks).await.unwrap_err();
    assert!(began.elapsed() <= DEADLINE);
    assert!(matches!(second.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock), "{second:?}");
    drop(first);
    std::fs::remove_dir_all(dir).unwrap();
}

/// Connections are kept: the second call needs none of its own.
#[tokio::test]
async fn calls_share_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    let accepted = tasks.spawn("peer", async move {
        let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            let read = stream.read(&mut [0; 4096]).await.unwrap();
            assert!(read > 0);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
    });
    let http = nobody();
    for _ in 0..2 {
        let request = Request::get(format!("http://{address}/")).body(Bytes::new()).unwrap();
        assert_eq!(http.call(request, DEADLINE).await.unwrap().status(), 204);
    }
    accepted.await.unwrap();
}
