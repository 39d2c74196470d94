//! SQLite under the conformance suite, with bounds so small that every path is taken.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use super::{Options, SqliteStore};
use crate::conformance::{Effort, Fixture, check};
use crate::{Store, lock};

struct Directory {
    /// The newest is the state; the others are of stores that crashed, which may live on for themselves.
    dirs: Mutex<Vec<TempDir>>,
    options: Options,
}

impl Fixture for Directory {
    fn open(&self) -> Arc<dyn Store> {
        let dir = lock(&self.dirs).last().unwrap().path().to_owned();
        SqliteStore::open(Options { dir, ..self.options.clone() }).unwrap()
    }

    fn crash(&self) -> Arc<dyn Store> {
        let after = directory();
        copy_alive(lock(&self.dirs).last().unwrap().path(), after.path());
        lock(&self.dirs).push(after);
        self.open()
    }
}

/// Copies the files under a store that works on them: what a kill in this moment leaves. (What a loss of power leaves, where
/// only what was synced counts, is shown by a test of the store's public interface.)
///
/// A reader holds the log meanwhile: it is not begun anew, so whatever is copied from it into the database while that is
/// read here is also in the log, which is read after it. Its end may be torn, as in a crash.
fn copy_alive(from: &Path, to: &Path) {
    let reader = Connection::open_with_flags(from.join("state.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM log;").unwrap();
    for file in ["state.db", "state.db-wal"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    reader.execute_batch("COMMIT").unwrap();
}

/// In memory where possible: the suite is about order, not about syncing.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn fixture(bound: impl Fn(Options) -> Options) -> Directory {
    let dir = directory();
    let options = bound(Options::new(dir.path()));
    Directory { dirs: Mutex::new(vec![dir]), options }
}

#[test]
fn sqlite_conforms_with_a_ring_of_eight_changes() {
    let small = |options| Options { ring_changes: 8, readers: 2, checkpoint_pages: 50, ..options };
    check(|| fixture(small), Effort { cases: 128, steps: 120 }).unwrap();
}

#[test]
fn sqlite_conforms_with_watchers_that_are_soon_too_slow() {
    let narrow = |options| Options { ring_changes: 4, watcher_bytes: 500, id_window: 1_000, ..options };
    check(|| fixture(narrow), Effort { cases: 64, steps: 120 }).unwrap();
}

/// R41.
#[test]
fn sqlite_conforms_with_its_defaults() {
    check(|| fixture(|options| options), Effort { cases: 64, steps: 120 }).unwrap();
}
