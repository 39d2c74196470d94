//! A private directory beside a file that is being made. It goes when it is dropped; what a killed process left of its own
//! goes with the next that makes the same file.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::ArchiveError;

/// See the module.
#[derive(Debug)]
pub(crate) struct Work {
    path: PathBuf,
    _held: File,
}

impl Work {
    /// `.NAME.part`, 0700, beside `file`.
    ///
    /// # Errors
    /// [`ArchiveError::Busy`] when another process makes the same file, or what the file system said.
    pub(crate) fn beside(file: &Path) -> Result<Self, ArchiveError> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let path = file.with_file_name(format!(".{name}.part"));
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
            return Err(ArchiveError::Busy(file.to_owned()));
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
