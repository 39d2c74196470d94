//! SQLite under the conformance suite, with bounds so small that every path is taken.

use std::sync::Arc;

use super::{Options, SqliteStore};
use crate::Store;
use crate::conformance::{Effort, Fixture, check};

struct Directory {
    _dir: tempfile::TempDir,
    options: Options,
}

impl Fixture for Directory {
    fn open(&self) -> Arc<dyn Store> {
        SqliteStore::open(self.options.clone()).unwrap()
    }
}

fn fixture(bound: impl Fn(Options) -> Options) -> Directory {
    // In memory where possible: the suite is about order, not about syncing.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let options = bound(Options::new(dir.path()));
    Directory { _dir: dir, options }
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

#[test]
fn sqlite_conforms_with_its_defaults() {
    check(|| fixture(|options| options), Effort { cases: 64, steps: 120 }).unwrap();
}
