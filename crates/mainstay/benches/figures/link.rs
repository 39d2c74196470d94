//! A lean client over TLS, with the admin's token: one HTTP/2 connection for calls, or one of HTTP/1.1 for a watch, as
//! kube-rs and the Python client have them.

#![expect(clippy::disallowed_methods, reason = "measures the server, without what our client adds")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::config::Kubeconfig;
use mainstay_runtime::Tasks;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::ExposeSecret as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to reach a server.
#[derive(Clone)]
pub(crate) struct Access {
    address: SocketAddr,
    authorization: HeaderValue,
    tls: rustls::ClientConfig,
    tasks: Tasks,
}

impl Access {
    /// As the admin of whom this is the kubeconfig.
    pub(crate) fn of(kubeconfig: &Path) -> anyhow::Result<Self> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let cluster = config.clusters.into_iter().find_map(|named| named.cluster).context("a cluster")?;
        let user = config.auth_infos.into_iter().find_map(|named| named.auth_info).context("a user")?;
        let token = user.token.context("a token")?;
        let authority = cluster.certificate_authority_data.context("an authority")?;
        let authority = base64::engine::general_purpose::STANDARD.decode(authority)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&authority)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let address = cluster.server.context("a server")?.trim_start_matches("https://").parse()?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
        authorization.set_sensitive(true);
        Ok(Self { address, authorization, tls, tasks: Tasks::new() })
    }

    async fn stream(&self, protocol: &[u8]) -> anyhow::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        Ok(TokioIo::new(TlsConnector::from(Arc::new(tls)).connect("localhost".try_into()?, stream).await?))
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> anyhow::Result<Link> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
        let (sender, connection) = builder.handshake(self.stream(b"h2").await?).await?;
        // It ends with the last clone of the sender, or with the server.
        drop(self.tasks.spawn("client", async move { drop(connection.await) }));
        Ok(Link { sender, authorization: self.authorization.clone(), authority: self.address.to_string() })
    }

    /// The lines of an answer that goes on, over HTTP/1.1 and a connection of its own.
    pub(crate) async fn lines(&self, path: &str) -> anyhow::Result<Lines> {
        let (mut sender, connection) = http1::handshake(self.stream(b"http/1.1").await?).await?;
        drop(self.tasks.spawn("client", async move { drop(connection.await) }));
        let request = Request::builder()
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(AUTHORIZATION, self.authorization.clone())
            .body(Full::new(Bytes::new()))?;
        Lines::of(path, sender.send_request(request).await?)
    }

    /// Where clients' work runs.
    pub(crate) const fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}

/// A connection; clones share it.
#[derive(Clone)]
pub(crate) struct Link {
    sender: http2::SendRequest<Full<Bytes>>,
    authorization: HeaderValue,
    authority: String,
}

impl Link {
    async fn call(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// The body of the answer; anything but 2xx is an error.
    pub(crate) async fn send(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Bytes> {
        let response = self.call(method, path, body.into()).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// The lines of an answer that goes on.
    pub(crate) async fn lines(&mut self, path: &str) -> anyhow::Result<Lines> {
        Lines::of(path, self.call(Method::GET, path, Bytes::new()).await?)
    }
}

/// Lines as they come.
pub(crate) struct Lines {
    body: Incoming,
    text: BytesMut,
}

impl Lines {
    fn of(path: &str, response: Response<Incoming>) -> anyhow::Result<Self> {
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(Self { body: response.into_body(), text: BytesMut::new() })
    }

    /// The next line that is not empty, without its end; an error when there is no more.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Bytes> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line = self.text.split_to(end).freeze();
                self.text.advance(1);
                if line.is_empty() {
                    continue;
                }
                return Ok(line);
            }
            let frame = self.body.frame().await.context("the stream ended")??;
            if let Some(data) = frame.data_ref() {
                self.text.extend_from_slice(data);
            }
        }
    }
}
