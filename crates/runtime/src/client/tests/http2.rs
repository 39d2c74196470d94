//! A connection that many calls share, and what happens when its other end falls silent.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::*;

struct Peer {
    address: SocketAddr,
    http: Http,
    connections: Arc<AtomicUsize>,
    /// The connections of before take and give nothing any more, and are not closed either.
    frozen: CancellationToken,
}

impl Peer {
    async fn new(tasks: &Tasks) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::Pkcs8(signing_key.serialize_der().into()))
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            http: Http::new(Trust::Only(Arc::new(roots)), 64).unwrap(),
            connections: Arc::default(),
            frozen: CancellationToken::new(),
        };
        tasks.spawn("peer", serve(listener, Arc::new(tls).into(), Arc::clone(&peer.connections), peer.frozen.clone()));
        peer
    }

    async fn call(&self) -> Result<::http::Version, HttpError> {
        let request = Request::get(format!("https://{}/", self.address)).body(Bytes::new()).unwrap();
        self.http.call(request, DEADLINE).await.map(|answer| answer.version())
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, connections: Arc<AtomicUsize>, frozen: CancellationToken) {
    let tasks = Tasks::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = tls.accept(stream).await.unwrap();
        connections.fetch_add(1, Ordering::Relaxed);
        let frozen = if frozen.is_cancelled() { CancellationToken::new() } else { frozen.clone() };
        tasks.spawn("connection", async move {
            let answer = service_fn(|_| async { Ok::<_, Infallible>(::http::Response::new(Full::new(Bytes::new()))) });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), answer));
            tokio::select! {
                _ = serving.as_mut() => {}
                () = frozen.cancelled() => std::future::pending().await,
            }
        });
    }
}

#[tokio::test]
async fn calls_share_one_connection_where_http_2_is_offered() {
    let peer = Peer::new(&Tasks::new()).await;
    assert_eq!(peer.call().await.unwrap(), ::http::Version::HTTP_2);
    let (one, other) = tokio::join!(peer.call(), peer.call());
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(peer.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_shared_connection_that_falls_silent_is_left() {
    let peer = Peer::new(&Tasks::new()).await;
    peer.call().await.unwrap();
    peer.frozen.cancel();
    tokio::time::pause();
    assert!(matches!(peer.call().await, Err(HttpError::TooLate(DEADLINE))));
    tokio::time::sleep(Duration::from_secs(20)).await;
    tokio::time::resume();
    peer.call().await.unwrap();
    assert_eq!(peer.connections.load(Ordering::Relaxed), 2);
}
