//! PostgreSQL under the conformance suite, with bounds so small that every path is taken.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mainstay_runtime::Tasks;
use mainstay_testkit::postgres::{self, Cluster, Database, Pooler};
use tokio::time::Instant;

use super::{Address, Options, PostgresStore, Time};
use crate::conformance::{Effort, Fixture, check};
use crate::object::{Draft, Key, Meta, Revision, Write};
use crate::operation::{Claim, Note, OPERATIONS, Queue as _, Queued, Renewal, Settlement, StepRow, StepState};
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

#[test]
fn postgres_conforms_behind_a_transaction_pooler() {
    let cluster = postgres::shared().unwrap();
    let pooler = Pooler::start(cluster, 4).unwrap();
    let behind = |options: Options| {
        let name = options.address.to_string().split(' ').next().unwrap_or_default().to_owned();
        let address = Address::parse(&cluster.url_at(pooler.address(), &name)).unwrap();
        Options { address, ring_changes: 8, readers: 2, span: 16, ..options }
    };
    check(|| fixture(cluster, behind), Effort { cases: 1, steps: 20 }).unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_store_one_of_whose_tasks_panics_is_over_and_says_so() {
    let database = postgres::shared().unwrap().database().unwrap();
    let (one, two) = pair(&database);
    one.write(create("a")).await.unwrap();
    {
        let _inside = one.runtime.as_ref().unwrap().enter();
        one.shared.run("doomed", async { panic!("as asked") });
    }
    soon(async {
        while one.ready().is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(one.ready(), Err(StoreError::Closed)));
    assert!(matches!(one.write(create("b")).await, Err(StoreError::Closed)));
    two.write(create("b")).await.unwrap();
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_compaction_keeps_up_and_no_write_is_refused_for_it() {
    const SPAN: u64 = 50;
    let cluster = postgres::shared().unwrap();
    let database = cluster.database().unwrap();
    let options = Options::new(Address::parse(&database.url).unwrap(), "one");
    let store = PostgresStore::open(Options { span: SPAN, ..options }).unwrap();
    let work = (0..16).map(|task| {
        let store = &store;
        async move {
            for turn in 0..100 {
                store.write(create(&format!("n{task}-{turn}"))).await.unwrap();
                if task == 0 {
                    store.compact(store.revision()).await.unwrap();
                }
            }
        }
    });
    soon(futures::future::join_all(work)).await;
    store.compact(store.revision()).await.unwrap();
    let count = |what: &str| cluster.sql(&database.name, &format!("SELECT count(*) FROM mainstay.{what}")).unwrap();
    assert_eq!((count("objects"), count("versions")), ("1600".into(), "1600".into()), "nothing is lost");
    let rows: u64 = count("history").parse().unwrap();
    assert!(rows <= 2 * SPAN, "{rows} rows of history are left");
    store.close().await;
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

/// A new operation of this uid, which is its name, too; due at once.
fn order(uid: &str, concurrency_key: Option<&str>) -> Write {
    let queued =
        Queued { concurrency_key: concurrency_key.map(Into::into), created_ms: 1, ..Queued::new("lane", "noop") };
    let meta = Arc::new(Meta { uid: uid.into(), ..Meta::default() });
    let draft = Draft { head: "{\"r\":\"".into(), tail: "\"}".into(), meta, queued: Some(Arc::new(queued)) };
    Write::Create { key: Key::new(OPERATIONS, "a", uid), draft, requires: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_may_have_its_share_of_each_replicas_workers() {
    let database = postgres::shared().unwrap().database().unwrap();
    let (one, two) = pair(&database);
    for number in 0..9 {
        one.write(order(&format!("uid-{number}"), None)).await.unwrap();
    }
    let claim = Claim { limit: 8, per_lane: 3, lease: Duration::from_mins(1), now_ms: 0 };
    let first = one.claim(claim.clone()).await.unwrap().claimed;
    assert_eq!(first.len(), 3);
    assert_eq!(one.claim(claim.clone()).await.unwrap().claimed.len(), 0, "it has its share");
    assert_eq!(two.claim(claim.clone()).await.unwrap().claimed.len(), 3);
    assert_eq!(two.claim(claim.clone()).await.unwrap().claimed.len(), 0);
    one.settle(&first[0].attempt, Settlement::Later { run_at_ms: i64::MAX / 4 }).await.unwrap();
    assert_eq!(one.claim(claim).await.unwrap().claimed.len(), 1);
    one.close().await;
    two.close().await;
}

const fn claim(lease: Duration) -> Claim {
    Claim { limit: 10, per_lane: 10, lease, now_ms: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_a_key_waits_for_the_other_over_postgres() {
    let database = postgres::shared().unwrap().database().unwrap();
    let (one, two) = pair(&database);
    one.write(order("first", Some("key"))).await.unwrap();
    two.write(order("second", Some("key"))).await.unwrap();
    let claimed = one.claim(claim(Duration::from_mins(1))).await.unwrap().claimed;
    assert_eq!(claimed.iter().map(|one| &*one.attempt.id).collect::<Vec<_>>(), ["first"]);
    assert!(two.claim(claim(Duration::from_mins(1))).await.unwrap().claimed.is_empty());
    one.settle(&claimed[0].attempt, Settlement::Later { run_at_ms: i64::MAX / 4 }).await.unwrap();
    let claimed = two.claim(claim(Duration::from_mins(1))).await.unwrap().claimed;
    assert_eq!(claimed.iter().map(|one| &*one.attempt.id).collect::<Vec<_>>(), ["second"]);
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_operation_to_another_replica_is_not_heard() {
    let database = postgres::shared().unwrap().database().unwrap();
    let (one, two) = pair(&database);
    one.write(order("lost", None)).await.unwrap();
    let lost = one.claim(claim(Duration::from_millis(1))).await.unwrap().claimed.remove(0).attempt;
    let found = async {
        loop {
            if let Some(claimed) = two.claim(claim(Duration::from_mins(1))).await.unwrap().claimed.pop() {
                return claimed.attempt;
            }
        }
    };
    let found = soon(found).await;
    let entry = StepRow { step: "step".into(), state: StepState::Intent, attempt: 0, output: "".into() };
    let said = one.journal(&lost, entry.clone()).await;
    assert!(matches!(said, Err(StoreError::Fenced(_))), "an entry of its journal: {said:?}");
    let said = one.settle(&lost, Settlement::Later { run_at_ms: 0 }).await;
    assert!(matches!(said, Err(StoreError::Fenced(_))), "how it ended: {said:?}");
    let renewed = one.renew(vec![lost], Duration::from_mins(1)).await.unwrap();
    assert!(matches!(renewed[..], [Renewal::Lost]), "{renewed:?}");
    two.journal(&found, entry).await.unwrap();
    two.settle(&found, Settlement::Later { run_at_ms: 0 }).await.unwrap();
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_says_what_no_text_can_hold_is_noted_and_harms_nobody_beside_it() {
    let database = postgres::shared().unwrap().database().unwrap();
    let store = PostgresStore::open(Options::new(Address::parse(&database.url).unwrap(), "one")).unwrap();
    store.write(order("uid", None)).await.unwrap();
    let claimed = store.claim(claim(Duration::from_mins(1))).await.unwrap().claimed.remove(0);
    let note = Note { attempt: 1, started_ms: 1, ended_ms: 2, reason: "Transient".into(), message: "a\0b".into() };
    let retry = Settlement::Retry { run_at_ms: 0, note, undoing: None };
    let (settled, beside) = futures::join!(store.settle(&claimed.attempt, retry), store.write(create("beside")));
    assert!(settled.is_ok() && beside.is_ok(), "{settled:?} {beside:?}");
    let standing = store.operations(vec!["uid".into()]).await.unwrap().remove(0).unwrap();
    assert_eq!(standing.row.history[0].message, "a\u{fffd}b");
    store.close().await;
}
