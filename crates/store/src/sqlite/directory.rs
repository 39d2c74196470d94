//! The data directory: private to its owner, and to one process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::StoreError;

/// Makes the directory and its database file if they are missing, and locks it until the returned file is dropped.
pub(super) fn hold(dir: &Path) -> Result<File, StoreError> {
    let failed = |error: std::io::Error| StoreError::Database(Arc::new(error));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let mut private = OpenOptions::new();
    private.create(true).truncate(false).read(true).write(true).mode(0o600);
    let mut held = private.open(dir.join("lock")).map_err(failed)?;
    match flock(&held, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(StoreError::Locked { pid: holder(&held) }),
        Err(error) => return Err(failed(error.into())),
    }
    // Only for people who are refused: the lock is what counts. So a full disk does not matter here.
    held.set_len(0).and_then(|()| held.write_all(format!("{}\n", std::process::id()).as_bytes())).ok();
    private.open(dir.join("state.db")).map_err(failed)?;
    // A write is not durable while the name of its directory is not.
    let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
    for named in [Some(dir), above].into_iter().flatten() {
        File::open(named).and_then(|named| named.sync_all()).map_err(failed)?;
    }
    Ok(held)
}

/// The process that says it holds the lock.
fn holder(lock: &File) -> Option<u32> {
    let mut text = String::new();
    lock.take(16).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}
