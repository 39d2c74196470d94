//! PostgreSQL under the conformance suite, with bounds so small that every path is taken.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mainstay_runtime::Tasks;
use mainstay_testkit::postgres::{self, Cluster, Database};
use tokio::time::Instant;

use super::{Address, Options, PostgresStore, Time};
use crate::conformance::{Effort, Fixture, check};
use crate::object::{Draft, Key, Meta, Revision, Write};
use crate::operation::{Claim, Note, OPERATIONS, Queue as _, Queued, Settlement};
use crate::watch::Scope;
use crate::{Fence, Store, StoreError};

/// One database; a crash is a process that enters under the same name while the one before lives on.
struct Shared {
    options: Options,
    /// When it was first opened, by the clock that the suite drives.
    began: OnceLock<Instant>,
    _database: Database,
}

impl Fixture for Shared {
    fn open(&self) -> Arc<dyn Store> {
        let time = Time::Driven(*self.began.get_or_init(Instant::now));
        PostgresStore::open(Options { time, ..self.options.clone() }).unwrap()
    }

    fn crash(&self) -> Arc<dyn Store> {
        self.open()
    }
}

fn fixture(cluster: &Cluster, bound: impl Fn(Options) -> Options) -> Shared {
    let database = cluster.database().unwrap();
    let address = Address::parse(&database.url).unwrap();
    Shared { options: bound(Options::new(address, "one")), began: OnceLock::new(), _database: database }
}

#[test]
fn postgres_conforms_with_a_ring_of_eight_changes() {
    let cluster = postgres::shared().unwrap();
    let small = |options| Options { ring_changes: 8, readers: 1, span: 16, ..options };
    check(|| fixture(cluster, small), Effort { cases: 16, steps: 80 }).unwrap();
}

/// Two replicas of one database.
fn pair(database: &Database) -> (Arc<PostgresStore>, Arc<PostgresStore>) {
    let open = |name: &str| PostgresStore::open(Options::new(Address::parse(&database.url).unwrap(), name)).unwrap();
    (open("one"), open("two"))
}

fn create(name: &str) -> Write {
    let key = Key::new("/pods", "a", name);
    let draft = Draft { head: "{\"r\":\"".into(), tail: "\"}".into(), meta: Arc::default(), queued: None };
    Write::Create { key, draft, requires: None }
}

/// Within a deadline that no run comes near.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it takes too long")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_writes_the_other_reads_and_watches() {
    let database = postgres::shared().unwrap().database().unwrap();
    let (one, two) = pair(&database);
    let mut watch = two.watch(Scope::resource("/pods"), Revision(0)).await.unwrap();
    for number in 1..=50_u64 {
        let (writer, other) = if number % 3 == 0 { (&two, &one) } else { (&one, &two) };
        let written = writer.write(create(&format!("n{number}"))).await.unwrap();
        assert_eq!(written.revision, Revision(number));
        assert_eq!(writer.get(&written.key).await.unwrap().unwrap(), written, "it reads what it wrote");
        let again = other.write(create(&format!("n{number}"))).await;
        assert!(matches!(&again, Err(StoreError::Exists(found)) if *found == written), "{again:?}");
        assert_eq!(other.get(&written.key).await.unwrap().unwrap(), written, "it has seen what refused it");
    }
    let mut seen = Vec::new();
    while seen.len() < 50 {
        seen.extend(soon(watch.next()).await.unwrap().iter().map(|change| change.revision().0));
    }
    assert_eq!(seen, (1..=50).collect::<Vec<u64>>());
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_goes_on_at_once_and_an_older_term_writes_nothing() {
    let database = postgres::shared().unwrap().database().unwrap();
    let (one, two) = pair(&database);
    let first = soon(one.leases().acquire("lead")).await.unwrap();
    let leases = two.leases();
    let waiting = Tasks::new().spawn("waiting", async move { leases.acquire("lead").await });
    let fence = |term| Fence { lease: "lead".into(), term };
    one.write_under(fence(first.term), create("a")).await.unwrap();
    assert!(!waiting.is_finished(), "it is held");
    let earlier = one.write_under(fence(first.term - 1), create("b")).await;
    assert!(matches!(earlier, Err(StoreError::Deposed(_))), "{earlier:?}");
    let term = first.term;
    first.release();
    let second = soon(waiting).await.unwrap().unwrap();
    assert!(second.term > term);
    let late = one.write_under(fence(term), create("b")).await;
    assert!(matches!(late, Err(StoreError::Deposed(_))), "{late:?}");
    two.write_under(fence(second.term), create("b")).await.unwrap();
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_session_is_gone_is_followed_and_hears_of_it() {
    let cluster = postgres::shared().unwrap();
    let database = cluster.database().unwrap();
    let (one, two) = pair(&database);
    let first = soon(one.leases().acquire("lead")).await.unwrap();
    let leases = two.leases();
    let waiting = Tasks::new().spawn("waiting", async move { leases.acquire("lead").await });
    // Its session ends, and cannot come back.
    let end = "UPDATE mainstay.leases SET backend = 1";
    cluster.sql(&database.name, end).unwrap();
    let second = soon(waiting).await.unwrap().unwrap();
    assert!(second.term > first.term);
    soon(first.lost.cancelled()).await;
    assert!(!second.lost.is_cancelled());
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_of_one_name_the_later_writes() {
    let database = postgres::shared().unwrap().database().unwrap();
    let open = || PostgresStore::open(Options::new(Address::parse(&database.url).unwrap(), "one")).unwrap();
    let earlier = open();
    earlier.write(create("a")).await.unwrap();
    let later = open();
    let refused = soon(earlier.write(create("b"))).await;
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    assert!(matches!(earlier.ready(), Err(StoreError::Closed)));
    later.write(create("b")).await.unwrap();
    later.close().await;
}

/// How many each holds, of what both want.
fn held(stores: [&PostgresStore; 2]) -> [usize; 2] {
    stores.map(|store| store.leases().standings().iter().filter(|standing| standing.held).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_spread_over_the_replicas() {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let database = postgres::shared().unwrap().database().unwrap();
    let (one, two) = pair(&database);
    let tasks = Tasks::new();
    // Whoever is to hand one back does, and wants it again.
    let want = |store: &Arc<PostgresStore>, name: &'static str| {
        let (leases, stop) = (store.leases(), tasks.stopping());
        drop(tasks.spawn("candidate", async move {
            while let Some(Ok(held)) = stop.run_until_cancelled(leases.acquire(name)).await {
                stop.run_until_cancelled(held.lost.cancelled()).await;
                held.release();
            }
        }));
    };
    for name in NAMES {
        want(&one, name);
    }
    let until = |wanted: &'static [[usize; 2]]| {
        let (one, two) = (&one, &two);
        async move {
            while !wanted.contains(&held([one, two])) {
                tokio::task::yield_now().await;
            }
        }
    };
    soon(until(&[[5, 0]])).await;
    for name in NAMES {
        want(&two, name);
    }
    soon(until(&[[3, 2]])).await;
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_says_what_no_text_can_hold_is_noted_and_harms_nobody_beside_it() {
    let database = postgres::shared().unwrap().database().unwrap();
    let store = PostgresStore::open(Options::new(Address::parse(&database.url).unwrap(), "one")).unwrap();
    let queued = Queued {
        lane: "lane".into(),
        handler: "noop".into(),
        priority: 0,
        run_at_ms: 0,
        concurrency_key: None,
        cancelled: false,
        replays: 0,
        created_ms: 1,
    };
    let meta = Arc::new(Meta { uid: "uid".into(), ..Meta::default() });
    let draft = Draft { head: "{\"r\":\"".into(), tail: "\"}".into(), meta, queued: Some(Arc::new(queued)) };
    let key = Key::new(OPERATIONS, "a", "one");
    store.write(Write::Create { key, draft, requires: None }).await.unwrap();
    let claim = Claim { limit: 1, per_lane: 1, lease: Duration::from_mins(1), now_ms: 0 };
    let claimed = store.claim(claim).await.unwrap().claimed.remove(0);
    let note = Note { attempt: 1, started_ms: 1, ended_ms: 2, reason: "Transient".into(), message: "a\0b".into() };
    let retry = Settlement::Retry { run_at_ms: 0, note, undoing: None };
    let (settled, beside) = futures::join!(store.settle(&claimed.attempt, retry), store.write(create("beside")));
    assert!(settled.is_ok() && beside.is_ok(), "{settled:?} {beside:?}");
    let standing = store.operations(vec!["uid".into()]).await.unwrap().remove(0).unwrap();
    assert_eq!(standing.row.history[0].message, "a\u{fffd}b");
    store.close().await;
}
