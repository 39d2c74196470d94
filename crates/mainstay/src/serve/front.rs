//! What listens from the first moment on: as long as there is nothing to serve yet it answers probes, and sends others away
//! for a while.
//!
//! A server may have to wait before it can serve: for its turn (`standby`), for a database that is away (`state`). It lives
//! meanwhile, and says so, and why. Then the same socket goes over to whoever serves, so that no connection is refused in
//! between. Where all goes well nobody sees any of this: connections of the first second wait for the server itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use mainstay_runtime::Tasks;
use mainstay_store::StoreError;
use mainstay_store::sqlite::take_directory;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::probe::{self, Answers, Probes};
use super::role::Role;

/// A start that goes well is over by then.
const QUICK: Duration = Duration::from_secs(1);

/// Serves at a socket until told to stop.
pub(super) type Successor = Box<dyn FnOnce(TcpListener, CancellationToken) -> BoxFuture<'static, ()> + Send>;

/// See the module; cheap to clone.
#[derive(Clone)]
pub(super) struct Front {
    address: SocketAddr,
    said: Arc<ArcSwap<Answers>>,
    /// There is something to say: it is not a quick start.
    answering: CancellationToken,
    successor: mpsc::Sender<Successor>,
}

impl Front {
    /// Listens; when that ends all these tasks are told to stop.
    ///
    /// # Errors
    /// When the address is taken.
    pub(super) async fn open(args: &ServeArgs, tasks: &Tasks) -> anyhow::Result<Self> {
        let probes = Probes::bind(args.listen, tasks.clone()).await.map_err(|error| named(args, error))?;
        let (successor, next) = mpsc::channel(1);
        let front = Self {
            address: probes.address()?,
            said: Arc::new(ArcSwap::from_pointee(probe::waiting("start", "it has just begun"))),
            answering: CancellationToken::new(),
            successor,
        };
        let (said, answering) = (Arc::clone(&front.said), front.answering.clone());
        drop(tasks.essential("listener", |stop| listen((probes, said), answering, next, stop)));
        Ok(front)
    }

    /// Where it listens.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says what the start waits for, should it take long.
    pub(super) fn begins(&self, part: &str, why: &str) {
        self.said.store(Arc::new(probe::waiting(part, why)));
    }

    /// Says what the start waits for, which takes long.
    pub(super) fn waits(&self, part: &str, why: &str) {
        self.answers(probe::waiting(part, why));
    }

    /// Answers so from now on.
    pub(super) fn answers(&self, answers: Answers) {
        self.said.store(Arc::new(answers));
        self.answering.cancel();
    }

    /// Hands the socket over.
    ///
    /// # Errors
    /// When it has ended, or was handed over before.
    pub(super) fn hand_over(&self, to: Successor) -> anyhow::Result<()> {
        self.successor.try_send(to).ok().context("nobody listens any more")
    }
}

async fn listen(
    (probes, said): (Probes, Arc<ArcSwap<Answers>>),
    answering: CancellationToken,
    mut next: mpsc::Receiver<Successor>,
    stop: CancellationToken,
) {
    let waiting = async {
        tokio::time::timeout(QUICK, answering.cancelled()).await.ok();
        probes.answer(&said).await
    };
    let next = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        next = next.recv() => next,
        never = waiting => match never {},
    };
    if let Some(serve) = next {
        serve(probes.into_socket(), stop).await;
    }
}

/// Who starts a server a second time is told which process has the directory, not only that an address is taken.
fn named(args: &ServeArgs, error: anyhow::Error) -> anyhow::Error {
    if args.role == Role::Node || !args.data_dir.exists() {
        return error;
    }
    match take_directory(&args.data_dir) {
        Err(locked @ StoreError::Locked { .. }) => error.context(locked),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::cli::{Cli, Command};

    async fn front(tasks: &Tasks) -> Front {
        let Command::Serve(args) = Cli::parse_from(["mainstay", "serve", "--listen", "127.0.0.1:0"]).command else {
            panic!("not serve")
        };
        Front::open(&args, tasks).await.unwrap()
    }

    /// Connects, as a client of ours does not: without TLS, and only to see who has the socket.
    fn connect(front: &Front) -> tokio::net::TcpStream {
        #[expect(clippy::disallowed_methods, reason = "to a socket of this test")]
        let stream = std::net::TcpStream::connect(front.address()).unwrap();
        stream.set_nonblocking(true).unwrap();
        tokio::net::TcpStream::from_std(stream).unwrap()
    }

    #[tokio::test]
    async fn a_connection_that_comes_before_there_is_a_server_waits_for_it() {
        let tasks = Tasks::new();
        let front = front(&tasks).await;
        let mut early = connect(&front);
        let serve: Successor = Box::new(|socket, stop| {
            Box::pin(async move {
                let (mut stream, _) = socket.accept().await.unwrap();
                stream.write_all(b"the server").await.unwrap();
                drop(stream);
                stop.cancelled().await;
            })
        });
        front.hand_over(serve).unwrap();
        let mut heard = String::new();
        early.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "the server");
        assert!(!tasks.stopping().is_cancelled());
        tasks.shutdown(Duration::from_secs(10)).await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_ends_by_itself_stops_the_process() {
        let tasks = Tasks::new();
        let front = front(&tasks).await;
        front.hand_over(Box::new(|_, _| Box::pin(async {}))).unwrap();
        tasks.stopping().cancelled().await;
        tasks.shutdown(Duration::from_secs(10)).await.unwrap();
        assert!(front.hand_over(Box::new(|_, _| Box::pin(async {}))).is_err());
    }
}
