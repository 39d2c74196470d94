//! PostgreSQL under the conformance suite, with bounds so small that every path is taken.

use std::sync::Arc;

use mainstay_testkit::postgres::{self, Cluster, Database};
use tokio::time::Instant;

use super::{Address, Options, PostgresStore, Time};
use crate::Store;
use crate::conformance::{Effort, Fixture, check};

/// One database; a crash is a process that enters under the same name while the one before lives on.
struct Shared {
    options: Options,
    _database: Database,
}

impl Fixture for Shared {
    fn open(&self) -> Arc<dyn Store> {
        PostgresStore::open(self.options.clone()).unwrap()
    }

    fn crash(&self) -> Arc<dyn Store> {
        self.open()
    }
}

fn fixture(cluster: &Cluster, bound: impl Fn(Options) -> Options) -> Shared {
    let database = cluster.database().unwrap();
    let address = Address::parse(&database.url).unwrap();
    let options = Options { time: Time::Driven(Instant::now()), ..Options::new(address, "one") };
    Shared { options: bound(options), _database: database }
}

#[test]
fn postgres_conforms_with_a_ring_of_eight_changes() {
    let cluster = postgres::shared().unwrap();
    let small = |options| Options { ring_changes: 8, readers: 1, span: 16, ..options };
    check(|| fixture(cluster, small), Effort { cases: 16, steps: 80 }).unwrap();
}
