//! The data directory: private to its owner, and to one process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, FileExt as _, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::clock::boottime;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::backup::STATE;
use super::{moved, restore};
use crate::error::StoreError;

/// How long what a killed process was about to start may hold its lock.
const INHERITED: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);
/// A file that only takes room, and how much: what opening takes when the disk is full, for the log's index (32 KiB), and
/// too little for a write.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: usize = 36 << 10;

/// Makes the directory and its database file if they are missing, and locks it until the returned file is dropped.
pub(super) fn hold(dir: &Path) -> Result<File, StoreError> {
    let held = take(dir)?;
    moved::refuse(dir)?;
    private().open(dir.join(STATE)).map_err(failed)?;
    // A write is not durable while the name of its directory is not.
    let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
    for named in [Some(dir), above].into_iter().flatten() {
        File::open(named).and_then(|named| named.sync_all()).map_err(failed)?;
    }
    Ok(held)
}

/// Makes the directory if it is missing, locks it until the returned file is dropped, and completes a restore into it that
/// was cut short. A process whose state is elsewhere, but which has a name or sandboxes here, takes it, too.
///
/// # Errors
/// [`StoreError::Locked`] when another process has it, and [`StoreError::Database`].
pub fn take(dir: &Path) -> Result<File, StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let mut held = private().open(dir.join("lock")).map_err(failed)?;
    // What this process has just started holds it, too, until that is another program.
    lock(&held, |pid| pid != std::process::id() && Path::new("/proc").join(pid.to_string()).exists())?;
    // Only for people who are refused: the lock is what counts. So a full disk does not matter here.
    held.set_len(0).and_then(|()| held.write_all(format!("{}\n", std::process::id()).as_bytes())).ok();
    restore::settle(dir).map_err(failed)?;
    Ok(held)
}

fn private() -> OpenOptions {
    let mut private = OpenOptions::new();
    private.create(true).truncate(false).read(true).write(true).mode(0o600);
    private
}

fn failed(error: std::io::Error) -> StoreError {
    StoreError::Database(Arc::new(error))
}

/// Takes the reserve, if there is room: without it a store that was closed well cannot be opened on a full disk.
pub(super) fn keep_reserve(dir: &Path) {
    let path = dir.join(RESERVE);
    if std::fs::metadata(&path).is_ok_and(|there| there.len() == RESERVE_BYTES as u64) {
        return;
    }
    let written = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
    if written.and_then(|mut file| file.write_all(&vec![0; RESERVE_BYTES])).is_err() {
        release_reserve(dir);
    }
}

/// Gives the reserve back to the file system; tells whether there was one.
pub(super) fn release_reserve(dir: &Path) -> bool {
    std::fs::remove_file(dir.join(RESERVE)).is_ok()
}

/// Takes the lock, if no process that lives has it.
///
/// A process that was killed in the moment in which it made another leaves its lock to that one, until it has become
/// another program: so a dead holder's lock is waited for.
fn lock(held: &File, lives: impl Fn(u32) -> bool) -> Result<(), StoreError> {
    let until = boottime() + INHERITED;
    loop {
        match flock(held, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(StoreError::Database(Arc::new(std::io::Error::from(error)))),
        }
        let pid = holder(held);
        if pid.is_none_or(&lives) || boottime() > until {
            return Err(StoreError::Locked { pid });
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// The process that says it holds the lock.
fn holder(lock: &File) -> Option<u32> {
    let mut text = [0; 16];
    let read = lock.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(text.get(..read)?).ok()?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn the_lock_of_a_dead_holder_is_waited_for_and_of_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "77\n").unwrap();
        let inherited = File::open(&path).unwrap();
        flock(&inherited, FlockOperation::NonBlockingLockExclusive).unwrap();
        let held = File::open(&path).unwrap();
        assert!(matches!(lock(&held, |_| true), Err(StoreError::Locked { pid: Some(77) })));
        // Its heir gives it up while it is waited for.
        let inherited = RefCell::new(Some(inherited));
        lock(&held, |pid| {
            assert_eq!(pid, 77);
            drop(inherited.take());
            false
        })
        .unwrap();
    }
}
