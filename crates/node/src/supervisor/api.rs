//! HTTP over the relay's Unix socket, as the session and nobody else.
//!
//! The token is read anew for each request, since it is renewed by renaming a new file over it; the socket is
//! connected anew whenever it fails, since a restarted control plane listens on a new one in the same directory.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use mainstay_runtime::Tasks;
use mainstay_runtime::client::unix;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// Bound of every request but a long poll's body.
const DEADLINE: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;
/// Bytes that a connection buffers: small, since there is one process of this kind per sandbox.
const BUFFER: usize = 32 * 1024;

/// Where the API is and who we are to it.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// The relay's socket.
    pub(crate) socket: PathBuf,
    /// The session token's file.
    pub(crate) token: PathBuf,
    /// Path of the session, without a trailing slash.
    pub(crate) session: String,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No answer, or one that asks to come again.
    #[error("{0}")]
    Away(String),
    /// An answer that says when to come again: what was sent is too much for now.
    #[error("asked to come again in {0:?}")]
    Later(Duration),
    /// An answer that repeating will not change.
    #[error("refused with {0}: {1}")]
    Refused(StatusCode, String),
}

impl ApiError {
    fn away(error: impl std::fmt::Display) -> Self {
        Self::Away(error.to_string())
    }
}

/// One connection to the API; each worker has its own, so that none waits for another's.
#[derive(Debug)]
pub(crate) struct Api {
    address: Address,
    tasks: Tasks,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Api {
    /// Not connected yet.
    pub(crate) fn new(address: Address, tasks: Tasks) -> Self {
        Self { address, tasks, connection: None }
    }

    /// Sends a request and reads its JSON answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ApiError> {
        let answer = timeout(DEADLINE, async {
            let response = self.send(method, path, body).await?;
            let body = Limited::new(response, ANSWER_LIMIT).collect().await.map_err(ApiError::away)?;
            Ok(body.to_bytes())
        });
        let result = answer.await.unwrap_or_else(|_| Err(ApiError::Away("no answer in time".into())));
        if matches!(result, Err(ApiError::Away(_) | ApiError::Later(_))) {
            self.connection = None;
        }
        serde_json::from_slice(&result?).map_err(ApiError::away)
    }

    /// Sends a request and returns its answer's body, to be read as it comes.
    pub(crate) async fn open(&mut self, path: &str) -> Result<Incoming, ApiError> {
        // The old connection may still carry an older long poll.
        self.connection = None;
        let sent = timeout(DEADLINE, self.send(Method::GET, path, Bytes::new())).await;
        sent.unwrap_or_else(|_| Err(ApiError::Away("no answer in time".into())))
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Incoming, ApiError> {
        let token = std::fs::read_to_string(&self.address.token).map_err(ApiError::away)?;
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.address.session))
            .header(http::header::HOST, "mainstay")
            .header(http::header::AUTHORIZATION, format!("Bearer {}", token.trim()))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::<Bytes>::new(body))
            .map_err(ApiError::away)?;
        let connection = self.connected().await?;
        let response = connection.send_request(request).await.map_err(ApiError::away)?;
        match response.status() {
            status if status.is_success() => Ok(response.into_body()),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                let status = response.status();
                let text = Limited::new(response, BUFFER).collect().await.map(http_body_util::Collected::to_bytes);
                let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                Err(ApiError::Refused(status, text.unwrap_or_default()))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(ApiError::Later(wait_of(response.headers()))),
            status => Err(ApiError::Away(format!("answered {status}"))),
        }
    }

    async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, ApiError> {
        let usable = match self.connection.take() {
            Some(mut held) => held.ready().await.is_ok().then_some(held),
            None => None,
        };
        let held = match usable {
            Some(held) => held,
            None => self.connect().await?,
        };
        Ok(self.connection.insert(held))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ApiError> {
        let connecting = unix::connect(&self.address.socket, BUFFER, DEADLINE, &self.tasks);
        connecting.await.map_err(ApiError::away)
    }
}

/// How long an answer asks to wait; no longer than a request may take.
fn wait_of(headers: &http::HeaderMap) -> Duration {
    let asked = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(asked.unwrap_or(1)).min(DEADLINE)
}

/// Pauses between attempts: full jitter below a ceiling that doubles.
#[derive(Debug)]
pub(crate) struct Pace {
    ceiling: Duration,
}

const FIRST_CEILING: Duration = Duration::from_millis(50);
const LAST_CEILING: Duration = Duration::from_secs(2);

impl Pace {
    /// As after a success.
    pub(crate) const fn new() -> Self {
        Self { ceiling: FIRST_CEILING }
    }

    /// Waits before the next attempt.
    pub(crate) async fn pause(&mut self) {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(LAST_CEILING);
        tokio::time::sleep(ceiling.mul_f64(rand::random_range(0.0..1.0))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;
    use tokio::time::Instant;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";

    /// A relay that reads of each request, says `words`, and nothing more; an API that reaches it.
    fn stalled(dir: &std::path::Path, words: &'static str) -> Api {
        let address = Address { socket: dir.join("socket"), token: dir.join("token"), session: "/session".into() };
        std::fs::write(&address.token, "token").unwrap();
        let (tasks, listener) = (Tasks::new(), UnixListener::bind(&address.socket).unwrap());
        tasks.spawn("relay", async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
                stream.write_all(words.as_bytes()).await.unwrap();
                held.push(stream);
            }
        });
        Api::new(address, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_stalls_ends_the_supervisors_call() {
        for words in ["", "HTTP/1.1 200", HEAD] {
            let dir = tempfile::tempdir().unwrap();
            let mut api = stalled(dir.path(), words);
            // The second finds a connection that is of no use any more.
            for _ in 0..2 {
                let began = Instant::now();
                let outcome = api.call::<serde_json::Value>(Method::POST, "/messages", Bytes::new()).await;
                assert!(matches!(outcome, Err(ApiError::Away(_))), "{words}: {outcome:?}");
                assert!(began.elapsed() <= DEADLINE * 2, "{:?}", began.elapsed());
            }
            if words != HEAD {
                let began = Instant::now();
                assert!(matches!(api.open("/messages").await, Err(ApiError::Away(_))));
                assert!(began.elapsed() <= DEADLINE * 2);
            }
        }
    }
}
