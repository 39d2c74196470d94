//! The database in memory under the conformance suite, with bounds so small that every path is taken.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::{Checks, Database, Direct, MemoryStore, Options};
use crate::Store;
use crate::conformance::{Effort, Fixture, check};

/// One database; a crash is a process that enters under the same name while the one before lives on.
struct Shared {
    database: OnceLock<Database>,
    options: Options,
}

impl Fixture for Shared {
    fn open(&self) -> Arc<dyn Store> {
        let database = self.database.get_or_init(|| {
            let began = Instant::now();
            Database::new(Checks::ALL, move || u64::try_from(began.elapsed().as_millis()).unwrap())
        });
        MemoryStore::open(database.clone(), Arc::new(Direct), self.options.clone())
    }

    fn crash(&self) -> Arc<dyn Store> {
        self.open()
    }
}

fn fixture(ring_changes: usize, watcher_bytes: usize) -> Shared {
    let options = Options { ring_changes, watcher_bytes, ..Options::new("one") };
    Shared { database: OnceLock::new(), options }
}

#[test]
fn memory_conforms_with_a_ring_of_eight_changes() {
    check(|| fixture(8, 1 << 20), Effort { cases: 128, steps: 120 }).unwrap();
}

#[test]
fn memory_conforms_with_watchers_that_are_soon_too_slow() {
    check(|| fixture(4, 500), Effort { cases: 64, steps: 120 }).unwrap();
}
