//! The crash harness: kills `mainstay serve` at fault points while work goes on, and finds what is left over of it.
//!
//! | part | what |
//! |---|---|
//! | [`Seed`] | draws at random, and repeats a draw |
//! | [`Killer`] | starts the server again and again, each time with another fault armed |
//! | [`client`] | calls that outlive the server: repeated under the same ids until they are answered |
//! | [`leftovers`] | processes, files, cgroups, loop devices and mounts of one data directory |

pub mod client;
pub mod leftovers;
mod seed;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context as _, ensure};
use mainstay_runtime::Tasks;
use mainstay_runtime::fault::{ENV, LOG_ENV, ONCE_ENV, SHIM_ENV};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::seed::{SEED_ENV, Seed};
use crate::server::Server;

/// Says something about a run that a reader of a failure needs.
#[expect(
    clippy::print_stderr,
    reason = "a test shows it when it fails; a test that cannot be repeated is worth little"
)]
pub fn note(words: &str) {
    eprintln!("{words}");
}

/// How often each fault point was passed, as [`LOG_ENV`] recorded it.
///
/// # Errors
/// When there is no such log.
pub fn hits(log: &Path) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut hits = BTreeMap::new();
    for name in std::fs::read_to_string(log).context("read the log of fault points")?.lines() {
        *hits.entry(name.to_owned()).or_default() += 1;
    }
    Ok(hits)
}

/// Arms a server's next start, or disarms it.
pub fn arm(server: &mut Server, fault: Option<&str>, log: Option<&Path>) {
    server.set_env(ENV, fault);
    let log = log.map(|path| path.display().to_string());
    server.set_env(LOG_ENV, log.as_deref());
}

/// Arms the shims of a server's next start, or disarms them; of many, only the one is struck that makes the file `once`.
pub fn arm_shims(server: &mut Server, fault: Option<&str>, once: Option<&Path>) {
    server.set_env(SHIM_ENV, fault);
    let once = once.map(|path| path.display().to_string());
    server.set_env(ONCE_ENV, once.as_deref());
}

/// Starts a server off the async threads. It is given back in any case; the outcome tells whether it became ready.
///
/// # Errors
/// When the attempt itself failed.
pub async fn start(mut server: Server) -> anyhow::Result<(Server, anyhow::Result<()>)> {
    let started = tokio::task::spawn_blocking(move || {
        let outcome = server.restart();
        (server, outcome)
    });
    started.await.context("start the server")
}

/// A server that dies by one fault after the other, and stands up each time, while somebody works with it.
#[derive(Debug)]
pub struct Killer {
    stop: watch::Sender<bool>,
    running: JoinHandle<anyhow::Result<Survivor>>,
}

/// What is left when the faults are through.
#[derive(Debug)]
pub struct Survivor {
    /// The server; it runs, and nothing is armed.
    pub server: Server,
    /// The faults that killed it, in this order.
    pub deaths: Vec<String>,
}

impl Killer {
    /// Starts `server`, which does not run, with each of `faults` in turn, and then without.
    pub fn start(server: Server, faults: Vec<String>, tasks: &Tasks) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, running: tasks.spawn("killer", kill(server, faults, stopped)) }
    }

    /// The work is done: no more kills.
    ///
    /// # Errors
    /// When the server ended otherwise than by a fault, or did not start again.
    pub async fn finish(self) -> anyhow::Result<Survivor> {
        self.stop.send_replace(true);
        self.running.await.context("the killer failed")?
    }
}

async fn kill(mut server: Server, faults: Vec<String>, mut stop: watch::Receiver<bool>) -> anyhow::Result<Survivor> {
    let mut deaths = Vec::new();
    for fault in faults {
        arm(&mut server, Some(&fault), None);
        let (given_back, ready) = start(server).await?;
        server = given_back;
        if ready.is_ok() {
            tokio::select! {
                dead = death(&server) => dead?,
                // The sender goes only with its last word.
                _ = stop.wait_for(|stop| *stop) => {
                    server.kill9()?;
                    break;
                }
            }
        }
        let status = server.wait()?;
        ensure!(is_sigkill(status), "armed with {fault}, the server ended with {status}:\n{}", server.log_text());
        deaths.push(fault);
    }
    arm(&mut server, None, None);
    let (server, ready) = start(server).await?;
    ready.with_context(|| format!("start again after {deaths:?}"))?;
    tokio::select! {
        dead = death(&server) => dead.and_then(|()| anyhow::bail!("the server ended unharmed:\n{}", server.log_text()))?,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    Ok(Survivor { server, deaths })
}

/// Waits until the running server's process has ended.
///
/// # Errors
/// When it does not run.
pub async fn death(server: &Server) -> anyhow::Result<()> {
    let pid =
        server.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("the server does not run")?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe for types that may close their descriptor; OwnedFd never does"
    )]
    let process = AsyncFd::new(pidfd_open(pid, PidfdFlags::empty())?)?;
    drop(process.readable().await?);
    Ok(())
}

/// Whether an armed fault ended the process, and not a failure of its own.
pub fn is_sigkill(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}
