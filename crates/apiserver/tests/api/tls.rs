//! The listener: TLS, tokens, slow and broken peers, the end.

#![expect(clippy::disallowed_methods, reason = "a test is its own peer, and speaks to the server without our client")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mainstay_apiserver::Limits;
use mainstay_apiserver::listener::Listener;
use mainstay_apiserver::tls::Tls;
use mainstay_runtime::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Harness, PATIENCE};

pub(crate) async fn listen(api: &Harness) -> SocketAddr {
    let tls = Tls::new(&api.keys, &["localhost".to_owned()], &Clock::system()).unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), tls.acceptor()).await.unwrap();
    let address = listener.address().unwrap();
    drop(api.tasks.spawn("listener", listener.serve(api.server.clone(), api.tasks.stopping())));
    address
}

pub(crate) async fn connect(api: &Harness, address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    connector(api).connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

pub(crate) fn connector(api: &Harness) -> tokio_rustls::TlsConnector {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let pem = api.keys.authority_pem();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

pub(crate) async fn exchange(api: &Harness, address: SocketAddr, request: &str) -> String {
    let mut stream = connect(api, address).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// R30.
#[tokio::test]
async fn over_tls_only_the_open_paths_need_no_token() {
    let api = Harness::new().await;
    let address = listen(&api).await;
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n");
    assert!(exchange(&api, address, &get("/livez", "")).await.starts_with("HTTP/1.1 200"));
    let refused = exchange(&api, address, &get("/api/v1/namespaces", "")).await;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("\"reason\":\"Unauthorized\""), "{refused}");
    let forged = exchange(&api, address, &get("/api/v1/namespaces", "authorization: Bearer x.y.z\r\n")).await;
    assert!(forged.starts_with("HTTP/1.1 401"), "{forged}");
}

#[tokio::test]
async fn a_peer_that_never_finishes_its_head_is_cut_off() {
    let api = Harness::with(Limits { header_read: Duration::from_millis(200), ..Limits::default() }).await;
    let address = listen(&api).await;
    let answer = exchange(&api, address, "GET /livez HTTP/1.1\r\nhost: x\r\n").await;
    assert!(!answer.contains("200 OK"), "{answer}");
    // And one that never begins TLS.
    let api = Harness::with(Limits { handshake: Duration::from_millis(200), ..Limits::default() }).await;
    let address = listen(&api).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut nothing = Vec::new();
    tokio::time::timeout(PATIENCE, silent.read_to_end(&mut nothing)).await.unwrap().ok();
}

/// R21.
#[tokio::test]
async fn stopping_ends_watches_and_drains() {
    let api = Harness::new().await;
    let address = listen(&api).await;
    let mut idle = connect(&api, address).await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();
    let mut watch = api.lines("/api/v1/namespaces?watch=1").await;
    assert_eq!(watch.event().await.0, "ADDED");
    api.tasks.stop();
    assert!(watch.next().await.is_none());
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, idle.read_to_end(&mut rest)).await.unwrap().ok();
    assert!(TcpStream::connect(address).await.is_err());
    api.tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_does_not_answer_does_not_keep_the_server_from_its_end() {
    let api = Harness::with(Limits { drain: Duration::from_millis(200), ..Limits::default() }).await;
    let address = listen(&api).await;
    let mut deaf = connect(&api, address).await;
    // HTTP/2's preface and empty settings; the farewell that the server sends on stop is never acknowledged.
    deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    deaf.read_exact(&mut [0; 9]).await.unwrap();
    api.tasks.shutdown(PATIENCE).await.unwrap();
}
