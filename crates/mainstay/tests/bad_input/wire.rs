//! HTTP/1.1 over TLS, byte by byte: what a client library would not send, and what it would not show.

#![expect(clippy::disallowed_methods, reason = "a test is its own peer, and speaks to the server without our client")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::Kubeconfig;
use mainstay_testkit::server::Server;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::time::Instant;

/// Longest silence of the server before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

/// A TLS connection.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Where a server is, and the admin's token.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    roots: RootCertStore,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Wire {
    pub(crate) fn of(server: &Server) -> Self {
        let config = Kubeconfig::read_from(server.kubeconfig()).unwrap();
        let authority = config.clusters[0].cluster.as_ref().unwrap().certificate_authority_data.as_ref().unwrap();
        let authority = STANDARD.decode(authority).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&authority).unwrap()).unwrap();
        let token = config.auth_infos[0].auth_info.as_ref().unwrap().token.as_ref().unwrap();
        let address = server.url().unwrap().trim_start_matches("https://").parse().unwrap();
        Self { address, token: token.expose_secret().to_owned(), roots }
    }

    /// What a TLS client of this server needs to know.
    pub(crate) fn config(&self, protocol: &str) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Arc::new(config)
    }

    /// A connection that speaks this protocol of ALPN.
    pub(crate) fn connect(&self, protocol: &str) -> Stream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let name = ServerName::from(self.address.ip());
        StreamOwned::new(ClientConnection::new(self.config(protocol), name).unwrap(), socket)
    }

    /// Sends these bytes on a connection of their own, and reads all that comes back until the server closes it.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect("http/1.1");
        // A server that has heard enough answers and closes; it need not read the rest.
        drop(stream.write_all(bytes).and_then(|()| stream.flush()));
        rest(&mut stream)
    }

    /// The head of a request with the admin's token, without its last empty line.
    pub(crate) fn head(&self, method: &str, path: &str) -> String {
        head(&self.token, method, path)
    }

    /// A whole request as the admin.
    pub(crate) fn call(&self, method: &str, path: &str, media: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call_as(&self.token, method, path, media, body)
    }

    /// A whole request with this token; no `Content-Type` when `media` is empty.
    pub(crate) fn call_as(&self, token: &str, method: &str, path: &str, media: &str, body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        let mut request = format!("{}Connection: close\r\n", head(token, method, path));
        if !media.is_empty() {
            request.extend(["Content-Type: ", media, "\r\n"]);
        }
        let mut bytes = format!("{request}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        Answer::parse(&self.raw(&bytes))
    }

    /// A JSON body as the admin.
    pub(crate) fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        self.call(method, path, media, body.to_string())
    }

    /// Reads as the admin.
    pub(crate) fn get(&self, path: &str) -> Value {
        self.call("GET", path, "", "").expect(200)
    }

    /// Reads as the admin until it is so.
    #[track_caller]
    pub(crate) fn until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.call("GET", path, "", "").json();
            if holds(&found) {
                return found;
            }
            assert!(Instant::now() < deadline, "{path} stays {found}");
            std::thread::yield_now();
        }
    }
}

fn head(token: &str, method: &str, path: &str) -> String {
    let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}")
}

/// All that is still to be read. A connection that is reset or not closed properly ends there, one that is silent fails.
#[track_caller]
pub(crate) fn rest(stream: &mut Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server neither answers nor closes, after {:?}", String::from_utf8_lossy(&bytes))
            }
            Err(_) => return bytes,
        }
    }
}

impl Answer {
    /// The first response in these bytes.
    #[track_caller]
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|found| found == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no response: {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
        let mut body = bytes[end + 4..].to_vec();
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        Self { status, head, body }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{} {}", self.head, self.text());
        self.json()
    }

    /// A `Status` with this code, and these words in its message.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, words: &str, what: &str) {
        assert_eq!(self.status, status, "{what}: {}", self.text());
        let body = self.json();
        assert_eq!((&body["kind"], &body["code"]), (&Value::from("Status"), &Value::from(status)), "{what}: {body}");
        let message = body["message"].as_str().unwrap();
        assert!(message.contains(words), "{what}: {message:?} does not say {words:?}");
        assert!(body["reason"].is_string(), "{what}: {body}");
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|found| found == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap().trim(), 16).unwrap();
        let chunk = &bytes[end + 2..];
        body.extend_from_slice(&chunk[..length.min(chunk.len())]);
        if length == 0 || chunk.len() < length + 2 {
            break;
        }
        bytes = &chunk[length + 2..];
    }
    body
}
