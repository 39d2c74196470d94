//! The relay: the one door of a sandbox, a Unix socket of its own that leads to its own session and nowhere else.
//!
//! Invariants:
//! - The session is known from the socket and from the peer's uid, not from what the peer says.
//! - Only this session's own paths pass, only with a token for this session (R42, R49; the API verifies the token), and
//!   only the listed headers, either way (R43).
//! - Connections and sizes are bounded; bodies are streamed, so nothing piles up here.
//! - A relayed call runs to its end even if its caller hangs up: a commit is not cut in half.

mod forward;
mod policy;

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mainstay_runtime::Tasks;
use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::forward::Forward;
pub(crate) use self::policy::Subject;
use super::layout::remove_file;
use crate::sandbox::SOCKET;

/// What ends a body or a call early.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body, either way.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
/// Where relayed requests go: the API server, which authenticates each by its token like one from a socket.
pub type Api = tower::util::BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// Connections of one sandbox at a time; more wait to be accepted.
const CONNECTIONS: usize = 16;
/// How long a connection may take to send a request's head, or stay idle.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// The largest head of a request.
const HEAD_LIMIT: usize = 64 * 1024;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// That the API has accepted a heartbeat of this run.
#[derive(Debug)]
pub(crate) struct Heard {
    accepted: AtomicBool,
    wake: Arc<Notify>,
}

impl Heard {
    /// Not yet; `wake` is told when it comes.
    pub(crate) fn new(wake: Arc<Notify>) -> Self {
        Self { accepted: AtomicBool::new(false), wake }
    }

    /// Whether one was accepted.
    pub(crate) fn accepted(&self) -> bool {
        self.accepted.load(Ordering::Acquire)
    }

    fn note(&self) {
        if !self.accepted.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }
}

/// An open relay; closes, with its connections, when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    _closing: DropGuard,
}

/// Who may connect, and to what.
#[derive(Debug)]
pub(crate) struct Door {
    /// Whose session it leads to.
    pub(crate) subject: Subject,
    /// The uids of the sandbox, as the host sees them.
    pub(crate) uids: Range<u32>,
    /// Who owns the socket, if not we.
    pub(crate) owner: Option<u32>,
    /// Told of the first accepted heartbeat.
    pub(crate) heard: Arc<Heard>,
}

impl Relay {
    /// Listens in `dir`, in place of whatever listened there before.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn open(dir: &Path, door: Door, api: Api, tasks: &Tasks) -> io::Result<Self> {
        let listener = listen(dir, door.owner)?;
        let stop = tasks.stopping();
        let closing = stop.clone().drop_guard();
        let forward = Arc::new(Forward { subject: door.subject, heard: door.heard, api, tasks: tasks.clone() });
        let accepting = Accepting { listener, forward, uids: door.uids, tasks: tasks.clone(), stop };
        tasks.spawn("relay", accepting.run());
        Ok(Self { _closing: closing })
    }
}

/// Binds the socket. Its address is short whatever the directory's path is (R: < 108 bytes).
fn listen(dir: &Path, owner: Option<u32>) -> io::Result<UnixListener> {
    let path = dir.join(SOCKET);
    remove_file(&path)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(dir, flags, Mode::empty())?;
    let listener = std::os::unix::net::UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd()))?;
    if owner.is_some() {
        chown(&path, owner, owner)?;
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

struct Accepting {
    listener: UnixListener,
    forward: Arc<Forward>,
    uids: Range<u32>,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Accepting {
    async fn run(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = self.stop.cancelled() => return,
                next = next => next,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a sandbox's connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if !self.is_ours(&stream) {
                continue;
            }
            let (forward, stop) = (self.forward.clone(), self.stop.clone());
            self.tasks.spawn("relay connection", async move {
                let _place = place;
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = serve(stream, forward) => {}
                }
            });
        }
    }

    fn is_ours(&self, stream: &UnixStream) -> bool {
        let uid = stream.peer_cred().map(|peer| peer.uid());
        let ours = uid.as_ref().is_ok_and(|uid| self.uids.contains(uid));
        if !ours {
            tracing::warn!(?uid, expected = ?self.uids, "a stranger connected to a sandbox's relay");
        }
        ours
    }
}

async fn serve(stream: UnixStream, forward: Arc<Forward>) {
    let service = service_fn(move |request| forward.clone().answer(request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_LIMIT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a sandbox's connection ended early");
    }
}

#[cfg(test)]
mod tests;
