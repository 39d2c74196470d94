//! A private directory beside a backup that is being made, of which there is one at a time. It goes when it is dropped; what
//! a killed process left of its own goes with the next that makes a backup there.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::ArchiveError;

/// One name, whatever the file's: remains of a kill are found again, also when each day's backup has a name of its own.
const NAME: &str = ".mainstay-backup.part";

/// See the module.
#[derive(Debug)]
pub(crate) struct Work {
    path: PathBuf,
    _held: File,
}

impl Work {
    /// `.mainstay-backup.part`, 0700, beside `file`.
    ///
    /// # Errors
    /// [`ArchiveError::Busy`] when another process makes a backup there, or what the file system said.
    pub(crate) fn beside(file: &Path) -> Result<Self, ArchiveError> {
        let path = file.with_file_name(NAME);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(ArchiveError::io("make", &path)(error));
            }
            _ => {}
        }
        let examined = fs::symlink_metadata(&path).map_err(ArchiveError::io("examine", &path))?;
        let ours = examined.is_dir() && examined.uid() == rustix::process::geteuid().as_raw();
        if !ours || examined.mode() & 0o077 != 0 {
            let why = io::Error::other("somebody else made it, or may read it");
            return Err(ArchiveError::io("use", &path)(why));
        }
        let held = File::open(&path).map_err(ArchiveError::io("open", &path))?;
        if flock(&held, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(ArchiveError::Busy(path));
        }
        let work = Self { path, _held: held };
        work.clear().map_err(ArchiveError::io("clear", &work.path))?;
        Ok(work)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).ok();
    }
}
