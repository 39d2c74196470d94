//! The servers that a node was told of: any of them answers it. One that does not is left, and the next one is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::uri::{Parts, PathAndQuery};
use http::{StatusCode, Uri};
use tokio::time::Instant;

/// Who gives up waiting for an answer after so long, leaves the server. Sooner it may have been for a reason of their own.
const PATIENCE: Duration = Duration::from_secs(2);

/// Cheap to clone; all clones ask the same one.
#[derive(Debug, Clone)]
pub(super) struct Servers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    urls: Vec<Uri>,
    /// Counts on with each server that was left.
    turn: AtomicUsize,
}

impl Servers {
    /// The servers at these URLs.
    ///
    /// # Errors
    /// When there is none, or one is no `https://HOST:PORT`.
    pub(super) fn of(urls: &[String]) -> anyhow::Result<Self> {
        ensure!(!urls.is_empty(), "--role node needs --server URL, where the API is");
        let parse = |url: &String| {
            let uri: Uri = url.parse().with_context(|| format!("--server {url}"))?;
            let good = uri.scheme_str() == Some("https") && uri.host().is_some();
            ensure!(good, "--server {url}: must be https://HOST:PORT");
            Ok(uri)
        };
        let urls = urls.iter().map(parse).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self(Arc::new(Shared { urls, turn: AtomicUsize::new(0) })))
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Uri] {
        &self.0.urls
    }

    /// The one whose turn it is, counted from any number on.
    pub(super) fn at(&self, turn: usize) -> &Uri {
        &self.0.urls[turn % self.0.urls.len()]
    }

    /// One try, with the server that is asked now.
    pub(super) fn attempt(&self) -> Attempt {
        let turn = self.0.turn.load(Ordering::Relaxed);
        Attempt { servers: self.clone(), turn, began: Instant::now(), open: true }
    }

    /// Many may leave one server at once: that counts once.
    fn leave(&self, turn: usize) {
        let left = self.0.turn.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
        if left.is_ok() && self.0.urls.len() > 1 {
            tracing::warn!(left = %self.at(turn), next = %self.at(turn.wrapping_add(1)), "asking another server");
        }
    }
}

/// A try that waits for the head of its answer.
#[derive(Debug)]
pub(super) struct Attempt {
    servers: Servers,
    turn: usize,
    began: Instant,
    open: bool,
}

impl Attempt {
    /// Who is asked.
    pub(super) fn url(&self) -> &Uri {
        self.servers.at(self.turn)
    }

    /// There is an answer. One that says that the server cannot answer is none.
    pub(super) fn answered(mut self, status: StatusCode) {
        self.open = false;
        if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
            self.servers.leave(self.turn);
        }
    }

    /// There is no connection, or it broke.
    pub(super) fn failed(mut self) {
        self.open = false;
        self.servers.leave(self.turn);
    }
}

impl Drop for Attempt {
    /// Whoever asked waits no longer.
    fn drop(&mut self) {
        if self.open && self.began.elapsed() >= PATIENCE {
            self.servers.leave(self.turn);
        }
    }
}

/// The URL of a path on a server.
pub(super) fn within(server: &Uri, path: &Uri) -> Option<Uri> {
    let mut parts = Parts::default();
    (parts.scheme, parts.authority) = (server.scheme().cloned(), server.authority().cloned());
    parts.path_and_query = path.path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Servers {
        Servers::of(&["https://a:1", "https://b:1", "https://c:1"].map(str::to_owned)).unwrap()
    }

    #[test]
    fn a_path_is_one_on_the_server() {
        let server = "https://box:7443/".parse().unwrap();
        let whole = within(&server, &"/a/b?c=d".parse().unwrap()).unwrap();
        assert_eq!(whole.to_string(), "https://box:7443/a/b?c=d");
        for wrong in [&[][..], &["http://a:1".to_owned()], &["a".to_owned()]] {
            assert!(Servers::of(wrong).is_err(), "{wrong:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_left_once_by_all_who_asked_it() {
        let servers = three();
        let asked = || servers.attempt().url().host().unwrap().to_owned();
        let (one, other) = (servers.attempt(), servers.attempt());
        servers.attempt().answered(StatusCode::NOT_FOUND);
        drop(servers.attempt());
        assert_eq!(asked(), "a", "it has answered");
        one.failed();
        other.failed();
        assert_eq!(asked(), "b");
        servers.attempt().answered(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(asked(), "c");
        let late = servers.attempt();
        tokio::time::advance(PATIENCE).await;
        drop(late);
        assert_eq!(asked(), "a", "and from the beginning");
    }
}
