//! A drill-backend of a test's own.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request};
use mainstay_runtime::client::{Http, Trust};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::drill::{Drill, Fault, On};
use super::ledger::{Effect, Guards, Refusal, Resource};
use crate::server::reserve;

/// Longest time to start, or to answer a judge.
const PATIENCE: Duration = Duration::from_secs(30);
/// Judges read whole logs.
const ANSWER_LIMIT: usize = 256 * 1024 * 1024;
/// Between two looks at what a judge waits for.
const GLANCE: Duration = Duration::from_millis(2);

/// A running drill-backend. It ends, and its directory goes, when this is dropped.
#[derive(Debug)]
pub struct DrillBackend {
    exe: PathBuf,
    dir: TempDir,
    listen: SocketAddr,
    _reserved: UdpSocket,
    /// The process ends when its standard input is closed: also when this process is killed.
    child: Option<(Child, ChildStdin)>,
    http: Http,
    guards: Guards,
}

impl DrillBackend {
    /// Starts the program `drill-backend` that lies where the running test was built: `target/PROFILE/`. It is built
    /// with the workspace's targets, or by `cargo build --release -p mainstay-testkit`.
    ///
    /// # Errors
    /// When it is not there, or does not start.
    pub fn start() -> anyhow::Result<Self> {
        let here = std::env::current_exe().context("find this program")?;
        let mut places = here.ancestors().skip(1).take(2).map(|dir| dir.join("drill-backend"));
        let exe = places.find(|exe| exe.is_file());
        Self::start_from(&exe.context("no drill-backend: cargo build --release --locked -p mainstay-testkit")?)
    }

    /// Starts `exe`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_from(exe: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("drill-backend-").tempdir().context("make a temporary directory")?;
        let (listen, reserved) = reserve()?;
        let (http, guards) = (client()?, Guards::default());
        let mut backend = Self { exe: exe.to_owned(), dir, listen, _reserved: reserved, child: None, http, guards };
        backend.spawn()?;
        Ok(backend)
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        let mut child = Command::new(&self.exe)
            .arg(self.dir.path())
            .arg(self.listen.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start drill-backend")?;
        let (stdin, stdout) = (child.stdin.take().context("its input")?, child.stdout.take().context("its output")?);
        self.child = Some((child, stdin));
        // Connections to its former self are none to it.
        self.http = client()?;
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line).unwrap_or_default();
            if read > 0 {
                ready.send(()).ok();
            }
        });
        is_ready.recv_timeout(PATIENCE).context("drill-backend does not listen")
    }

    /// Where it listens, over all its starts.
    pub const fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The same as a URL, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Ends it by SIGKILL, if it did not end by itself.
    ///
    /// # Errors
    /// When it was not started.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let (mut child, _stdin) = self.child.take().context("drill-backend is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until it has died, as told.
    ///
    /// # Errors
    /// When it has not for long.
    pub async fn died(&mut self) -> anyhow::Result<()> {
        let (mut child, _stdin) = self.child.take().context("drill-backend is not running")?;
        let waiting = async {
            while child.try_wait()?.is_none() {
                tokio::time::sleep(GLANCE).await;
            }
            anyhow::Ok(())
        };
        let died = tokio::time::timeout(PATIENCE, waiting).await;
        // Whatever it did, it is gone now.
        child.kill().ok();
        child.wait()?;
        died.context("drill-backend does not die")?
    }

    /// Starts it again after [`DrillBackend::kill9`], or after it died as told: same address, same log, same guards, and well.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            self.kill9()?;
        }
        self.spawn()?;
        self.guard(self.guards).await
    }

    /// Makes it sick: `times` calls, or all until [`DrillBackend::calm`].
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn drill(&self, on: On, fault: Fault, times: Option<u32>) -> anyhow::Result<()> {
        self.post("/control/drill", &Drill { on, fault, times }).await
    }

    /// Makes it well. Calls that stall go on stalling.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn calm(&self) -> anyhow::Result<()> {
        self.post("/control/calm", &()).await
    }

    /// Switches its guards.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn guard(&mut self, guards: Guards) -> anyhow::Result<()> {
        self.guards = guards;
        self.post("/control/guards", &guards).await
    }

    /// Every effect, in order.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn effects(&self) -> anyhow::Result<Vec<Effect>> {
        self.get("/judge/effects").await
    }

    /// Everything that is there.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn inventory(&self) -> anyhow::Result<Vec<Resource>> {
        self.get("/judge/inventory").await
    }

    /// Orders that it refused since it was started: operation and step, token, why.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn refusals(&self) -> anyhow::Result<Vec<((String, String), u64, Refusal)>> {
        self.get("/judge/refusals").await
    }

    /// How many calls of a verb, or a read, have arrived since it was started; of backend `late`, how many late effects
    /// were had, or refused.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn arrivals(&self, backend: &str, verb: &str) -> anyhow::Result<u64> {
        let all: BTreeMap<String, u64> = self.get("/judge/arrivals").await?;
        Ok(all.get(&format!("{backend}/{verb}")).copied().unwrap_or_default())
    }

    /// Waits until so many have.
    ///
    /// # Errors
    /// When they have not for long.
    pub async fn arrived(&self, backend: &str, verb: &str, count: u64) -> anyhow::Result<()> {
        let waiting = async {
            while self.arrivals(backend, verb).await? < count {
                tokio::time::sleep(GLANCE).await;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("{count} calls of {verb}"))?
    }

    /// Waits until so many effects have been carried out.
    ///
    /// # Errors
    /// When they have not for long.
    pub async fn carried_out(&self, count: usize) -> anyhow::Result<Vec<Effect>> {
        let waiting = async {
            loop {
                let effects = self.effects().await?;
                if effects.len() >= count {
                    return Ok(effects);
                }
                tokio::time::sleep(GLANCE).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("{count} effects"))?
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(serde_json::from_slice(&self.call(Method::GET, path, Bytes::new()).await?)?)
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> anyhow::Result<()> {
        self.call(Method::POST, path, serde_json::to_vec(body)?.into()).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.url())).body(body)?;
        let answer = self.http.call(request, PATIENCE).await.with_context(|| format!("call {path}"))?;
        ensure!(answer.status().is_success(), "{path}: {} {:?}", answer.status(), answer.body());
        Ok(answer.into_body())
    }
}

fn client() -> anyhow::Result<Http> {
    Ok(Http::new(Trust::Only(Arc::new(rustls::RootCertStore::empty())), ANSWER_LIMIT)?)
}

impl Drop for DrillBackend {
    fn drop(&mut self) {
        if self.child.is_some() {
            drop(self.kill9());
        }
    }
}

/// The operations and steps that were carried out more than once: what must never be. A step that is done again after
/// it was undone is another round of it.
pub fn doubled(effects: &[Effect]) -> Vec<(&str, &str)> {
    let mut counts = BTreeMap::<_, usize>::new();
    for effect in effects {
        *counts.entry((effect.operation.as_str(), effect.step.as_str(), effect.round)).or_default() += 1;
    }
    counts.into_iter().filter(|(_, count)| *count > 1).map(|((operation, step, _), _)| (operation, step)).collect()
}
