//! Peers that do not behave as requests in a book do.

#![expect(clippy::disallowed_methods, reason = "a test is its own peer, and speaks to the server without our client")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{Harness, PATIENCE, configmaps};
use crate::tls::{connect, listen};

/// A peer of HTTP/2 that sends on into a stream that was reset reports a broken connection in place of the answer.
#[tokio::test]
async fn a_refusal_comes_after_the_body_so_that_the_peer_reads_it() {
    const PIECES: usize = 160;
    let api = Harness::new().await;
    let stream = TokioIo::new(connect(&api, listen(&api).await).await);
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    drop(api.tasks.spawn("client", async { connection.await.unwrap_or_default() }));
    let token = api.admin_token();
    for (path, status) in [("/nowhere".to_owned(), 405), (configmaps(""), 413)] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let pieces = stream::iter(0..PIECES).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![b' '; 64 << 10])))
        });
        let request = Request::post(format!("https://localhost{path}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(StreamBody::new(pieces))
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, client.send_request(request)).await.unwrap().unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(sent.load(Ordering::Relaxed), PIECES, "{path}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(b"{\"kind\":\"Status\""), "{path}");
    }
}
