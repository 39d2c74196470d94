//! Claiming a run directory: made by one shim, once.
//!
//! `mkdir` decides: of two shims for one Pod, one finds the directory there and gives up before it has executed
//! anything. The lock then says that this shim lives.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::record::LOCK;
use crate::sandbox::{During, SandboxError};

/// The directory of the rotated log.
pub const LOG_DIR: &str = "log";

/// A run directory that is ours; the lock is held as long as this lives.
#[derive(Debug)]
pub(crate) struct Claim {
    _lock: File,
}

/// Claims `run_dir`.
pub(crate) fn claim(run_dir: &Path) -> Result<Claim, SandboxError> {
    match DirBuilder::new().mode(0o700).create(run_dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(SandboxError::Claimed),
        made => made.during("make the run directory")?,
    }
    let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(run_dir.join(LOCK));
    let lock = lock.during("make the lock")?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).during("take the lock")?;
    DirBuilder::new().mode(0o700).create(run_dir.join(LOG_DIR)).during("make the log's directory")?;
    Ok(Claim { _lock: lock })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::record::is_live;

    #[test]
    fn a_run_directory_is_claimed_once_and_live_while_held() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("pod");
        assert!(!is_live(&run).unwrap());
        let held = claim(&run).unwrap();
        assert!(is_live(&run).unwrap());
        assert!(matches!(claim(&run), Err(SandboxError::Claimed)));
        drop(held);
        assert!(!is_live(&run).unwrap());
        assert!(matches!(claim(&run), Err(SandboxError::Claimed)), "a finished run is not claimed again either");
    }
}
