//! The files by which a sandbox is known: `state.json` while it lives, `exit.json` for good, and the lock.
//!
//! Whether a sandbox lives is asked of the lock alone: the kernel gives it up with the last process that holds it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::launch::{ExitRecord, RunState};

/// The lock's name in the run directory.
pub const LOCK: &str = "lock";
/// The control socket's name in the run directory.
pub const CONTROL: &str = "control.sock";
/// The name in the run directory of the socket on which the supervisor takes further commands.
pub const EXEC: &str = "exec.sock";
/// The live state's name in the run directory.
pub const STATE: &str = "state.json";
/// The exit record's name in the run directory.
pub const EXIT: &str = "exit.json";

/// Describes the live sandbox in `run_dir`; `None` when its shim has written nothing yet.
///
/// # Errors
/// When the file cannot be read, or is not what a shim writes.
pub fn read_state(run_dir: &Path) -> io::Result<Option<RunState>> {
    read(&run_dir.join(STATE))
}

/// How the sandbox in `run_dir` ended; `None` when nothing is recorded.
///
/// # Errors
/// When the file cannot be read, or is not what a shim writes.
pub fn read_exit(run_dir: &Path) -> io::Result<Option<ExitRecord>> {
    read(&run_dir.join(EXIT))
}

/// Whether a shim holds `run_dir`. Never blocks.
///
/// # Errors
/// When the lock file cannot be opened for a reason other than its absence.
pub fn is_live(run_dir: &Path) -> io::Result<bool> {
    let lock = match File::open(run_dir.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the live state; a reader sees the old or the new one whole. It means nothing after a crash of the machine,
/// so it is not forced to the disk.
pub(crate) fn write_state(run_dir: &Path, state: &RunState) -> io::Result<()> {
    replace(run_dir, STATE, state).map(drop)
}

/// Writes the exit record and forces it, and its name, to the disk.
pub(crate) fn write_exit(run_dir: &Path, record: &ExitRecord) -> io::Result<()> {
    replace(run_dir, EXIT, record)?;
    File::open(run_dir)?.sync_all()
}

fn replace(dir: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    if name == EXIT {
        file.sync_all()?;
    }
    std::fs::rename(&temporary, dir.join(name))
}
