//! Claiming a run directory: made by one shim, once.
//!
//! `mkdir` decides: of two shims for one Pod, one finds the directory there and gives up before it has executed
//! anything. The directory's name is on the disk before the claim counts, so that what was executed is not executed
//! again after a power loss either. The lock then says that this shim lives.

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
    lock: File,
}

impl Claim {
    /// Somebody has removed the directory: no node agent will ever ask for this sandbox again.
    pub(crate) fn is_removed(&self) -> bool {
        rustix::fs::fstat(&self.lock).is_ok_and(|found| found.st_nlink == 0)
    }
}

/// Claims `run_dir`.
pub(crate) fn claim(run_dir: &Path) -> Result<Claim, SandboxError> {
    match DirBuilder::new().mode(0o700).create(run_dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(SandboxError::Claimed),
        made => made.during("make the run directory")?,
    }
    let runs = run_dir.parent().unwrap_or(run_dir);
    File::open(runs).and_then(|runs| runs.sync_all()).during("force the claim to the disk")?;
    let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(run_dir.join(LOCK));
    let lock = lock.during("make the lock")?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).during("take the lock")?;
    DirBuilder::new().mode(0o700).create(run_dir.join(LOG_DIR)).during("make the log's directory")?;
    Ok(Claim { lock })
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
        std::fs::rename(&run, dir.path().join("moved")).unwrap();
        assert!(!held.is_removed(), "it is only elsewhere");
        std::fs::rename(dir.path().join("moved"), &run).unwrap();
        drop(held);
        assert!(!is_live(&run).unwrap());
        assert!(matches!(claim(&run), Err(SandboxError::Claimed)), "a finished run is not claimed again either");
    }
}
