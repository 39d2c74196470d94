//! The sandboxes of this machine, behind a trait, so that the agent's decisions are tested without any.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use rustix::fs::{FlockOperation, flock};
use tokio::io::AsyncReadExt;

use crate::cgroup;
use crate::launch::{Answer, ExitRecord, Launch, Order, RunState};
use crate::sandbox::SandboxError;
use crate::shim::{client, record};

/// What a run directory tells.
#[derive(Debug, Clone)]
pub enum Look {
    /// There is none: nothing was ever executed for this Pod.
    Absent,
    /// A shim holds it; its description is there once it has written one.
    Live(Option<Box<RunState>>),
    /// No shim holds it, and its record is there; beside it what was known while it lived.
    Ended(Box<ExitRecord>, Option<Box<RunState>>),
    /// No shim holds it, and nothing is recorded: the result is lost.
    Unrecorded(Option<Box<RunState>>),
}

/// Starts, finds and orders sandboxes.
pub trait Sandboxes: fmt::Debug + Send + Sync + 'static {
    /// Starts a shim; returns once it has claimed the run directory. Blocking.
    ///
    /// # Errors
    /// As [`client::spawn`].
    fn spawn(&self, exe: &Path, launch: &Launch) -> Result<(), SandboxError>;

    /// Gives an order to a live shim. Blocking, with a bound.
    ///
    /// # Errors
    /// As [`client::send`].
    fn send(&self, run_dir: &Path, order: &Order) -> io::Result<Answer>;

    /// Reads a run directory.
    ///
    /// # Errors
    /// When a file cannot be read or understood.
    fn look(&self, run_dir: &Path) -> io::Result<Look>;

    /// What the host still has of sandboxes of this data directory, by the uid of the Pod: their cgroups.
    fn left_over(&self, instance: &str) -> Vec<(String, PathBuf)>;

    /// Ends and removes what [`Sandboxes::left_over`] found, and what all sandboxes of this data directory shared if
    /// none is there any more. Blocking, with a bound.
    ///
    /// # Errors
    /// When it does not become empty in time.
    fn sweep(&self, instance: &str, cgroups: &[PathBuf]) -> io::Result<()>;

    /// Waits until no shim holds the run directory.
    fn gone(&self, run_dir: PathBuf) -> BoxFuture<'static, ()>;
}

/// The real ones: one shim process each.
#[derive(Debug, Clone, Copy)]
pub struct Shims;

impl Sandboxes for Shims {
    fn spawn(&self, exe: &Path, launch: &Launch) -> Result<(), SandboxError> {
        client::spawn(exe, launch)
    }

    fn send(&self, run_dir: &Path, order: &Order) -> io::Result<Answer> {
        client::send(run_dir, order)
    }

    fn look(&self, run_dir: &Path) -> io::Result<Look> {
        // The lock first: a record that is there while it is held may still be followed by clean-up.
        if record::is_live(run_dir)? {
            return Ok(Look::Live(record::read_state(run_dir)?.map(Box::new)));
        }
        let state = record::read_state(run_dir).unwrap_or_default().map(Box::new);
        match record::read_exit(run_dir) {
            Ok(Some(exit)) => return Ok(Look::Ended(Box::new(exit), state)),
            Ok(None) => {}
            // Written whole, so this is a damaged disk; to retry would hold its session up for ever.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                tracing::error!(dir = %run_dir.display(), %error, "an exit record cannot be understood");
            }
            Err(error) => return Err(error),
        }
        match std::fs::metadata(run_dir) {
            Ok(_) => Ok(Look::Unrecorded(state)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Look::Absent),
            Err(error) => Err(error),
        }
    }

    fn left_over(&self, instance: &str) -> Vec<(String, PathBuf)> {
        cgroup::of_instance(instance)
    }

    fn sweep(&self, instance: &str, cgroups: &[PathBuf]) -> io::Result<()> {
        cgroup::remove_all(cgroups)?;
        cgroup::remove_empty(instance);
        Ok(())
    }

    fn gone(&self, run_dir: PathBuf) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // A silent connection ends with the shim's attention to it. Once the shim listens no more, it is on its way
            // out (or has not begun to), and the lock tells when it has gone.
            while let Ok(stream) = client::connect(&run_dir) {
                closed(stream).await;
            }
            loop {
                let dir = run_dir.clone();
                let freed = tokio::task::spawn_blocking(move || freed(&dir)).await;
                if !matches!(freed, Ok(Err(ref error)) if error.kind() == io::ErrorKind::Interrupted) {
                    return;
                }
            }
        })
    }
}

/// Waits for the end of a connection to the shim.
async fn closed(stream: std::os::unix::net::UnixStream) {
    if stream.set_nonblocking(true).is_err() {
        return;
    }
    if let Ok(mut stream) = tokio::net::UnixStream::from_std(stream) {
        // Anything but more bytes is the end.
        while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
    }
}

/// Waits until the lock is free: short, since the shim is on its way out when this is called.
fn freed(run_dir: &Path) -> io::Result<()> {
    match File::open(run_dir.join(record::LOCK)) {
        Ok(lock) => Ok(flock(&lock, FlockOperation::LockShared)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
