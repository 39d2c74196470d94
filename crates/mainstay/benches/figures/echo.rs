//! The floor of HTTP: a server in another process that answers each request with its own body, over the same TLS and
//! the same HTTP/2 library, and does nothing else.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mainstay_apiserver::keys::Keys;
use mainstay_apiserver::tls::Tls;
use mainstay_runtime::{Clock, Tasks};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::link::Access;

/// The argument that makes this program the echo.
pub(crate) const ARGUMENT: &str = "serve-echo";

/// The running echo.
pub(crate) struct Peer {
    pub(crate) access: Access,
    child: Child,
    _dir: TempDir,
}

impl Peer {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([ARGUMENT.as_ref(), dir.path().as_os_str()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        let access = Access::of(&dir.path().join("kubeconfig"))?;
        Ok(Self { access, child, _dir: dir })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Serves until it is killed.
#[expect(clippy::print_stdout, reason = "it says that it is ready")]
pub(crate) async fn serve() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(2).context("a directory")?;
    let (clock, tasks) = (Clock::system(), Tasks::new());
    let keys = Keys::ephemeral(clock.now())?;
    let tls = Tls::new(&keys, &["localhost".to_owned()], &clock)?;
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", socket.local_addr()?);
    keys.write_kubeconfig(&std::path::Path::new(&dir).join("kubeconfig"), &url)?;
    println!("ready");
    let acceptor = tls.acceptor();
    loop {
        let (stream, _) = socket.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        drop(tasks.spawn("connection", async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let builder = auto::Builder::new(TokioExecutor::new());
            drop(builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await);
        }));
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}
