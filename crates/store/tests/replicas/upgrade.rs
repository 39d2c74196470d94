//! Programs of two versions over one database: the newer expands its schema while the older works, and either may go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay_store::postgres::upgrade::{self, ContractError};
use mainstay_store::postgres::{Address, Options, Step};
use mainstay_store::{PostgresStore, Revision, Scope, Store, StoreError};
use mainstay_testkit::postgres::{self, Database};
use tokio::time::Instant;

use crate::support::{create, history, open, soon, stored};

/// What a step may do to what the older program uses: every table that it writes has a further column, and a function that
/// it calls has another body. What is taken away later only the older one could use.
const EXPAND: &str = "
    ALTER TABLE log ADD COLUMN further int NOT NULL DEFAULT 7; ALTER TABLE batches ADD COLUMN further int;
    ALTER TABLE history ADD COLUMN further int NOT NULL DEFAULT 7; ALTER TABLE kept ADD COLUMN further int NOT NULL DEFAULT 7;
    ALTER TABLE objects ADD COLUMN further int NOT NULL DEFAULT 7; ALTER TABLE leases ADD COLUMN further int NOT NULL DEFAULT 7;
    ALTER TABLE counters ADD COLUMN further int NOT NULL DEFAULT 7; ALTER TABLE sessions ADD COLUMN further int NOT NULL DEFAULT 7;
    ALTER TABLE replicas ADD COLUMN further int NOT NULL DEFAULT 7; ALTER TABLE operations ADD COLUMN further int NOT NULL DEFAULT 7;
    CREATE TABLE only_older (at int); CREATE TABLE only_newer (at int);
    CREATE OR REPLACE FUNCTION look_ahead(p_now bigint, OUT next_due bigint, OUT next_expiry bigint) STABLE LANGUAGE sql AS $$
        SELECT NULL::bigint, NULL::bigint $$;";
const CONTRACT: &str = "DROP TABLE only_older;";

fn step() -> Step {
    Step { expand: EXPAND.into(), contract: CONTRACT.into() }
}

fn address(database: &Database) -> Address {
    Address::parse(&database.url).unwrap()
}

fn open_newer(database: &Database, replica: &str) -> Arc<PostgresStore> {
    PostgresStore::open(Options { further: Some(step()), ..Options::new(address(database), replica) }).unwrap()
}

/// On a thread where one may block.
fn contract(database: &Database) -> Result<upgrade::Schema, ContractError> {
    let address = address(database);
    std::thread::spawn(move || upgrade::contract(&address, Some(&step()))).join().unwrap()
}

fn sql(database: &Database, query: &str) -> String {
    postgres::shared().unwrap().sql(&database.name, query).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_program_works_on_until_the_schema_is_contracted() {
    let database = postgres::shared().unwrap().database().unwrap();
    let older = open(&database.url, "older");
    // What it asks for is prepared by now, in the form that it had.
    stored(&older, "before").await;
    older.raise("counter").await.unwrap();
    let held = soon(older.leases().acquire("lease")).await.unwrap();
    let mut watch = older.watch(Scope::resource("/pods"), Revision(1)).await.unwrap();

    let newer = open_newer(&database, "newer");
    assert_eq!(sql(&database, "SELECT version, oldest FROM mainstay.schema"), "3|1");
    for number in 0..10 {
        let (writer, other) = if number % 2 == 0 { (&older, &newer) } else { (&newer, &older) };
        let written = writer.write(create(&format!("n{number}"))).await.unwrap();
        assert!(
            matches!(other.write(create(&format!("n{number}"))).await, Err(StoreError::Exists(found)) if found == written)
        );
    }
    older.raise("counter").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 10 {
        seen.extend(soon(watch.next()).await.unwrap().iter().map(|change| change.revision().0));
    }
    assert_eq!(seen, (2..=11).collect::<Vec<_>>(), "the watch is complete and in order");
    assert!(!held.lost.is_cancelled(), "the older one leads on");

    let refused = contract(&database).unwrap_err();
    assert!(matches!(&refused, ContractError::Older { names } if names == &["older"]), "{refused}");
    assert_eq!(refused.to_string(), "older of an older version is at work");
    drop(watch);
    held.release();
    older.close().await;
    // Back, by starting it again: also the newer one's place.
    newer.close().await;
    let back = open(&database.url, "newer");
    stored(&back, "after").await;
    assert_eq!(history(&back, Revision(12)).await.len(), 12);
    back.close().await;
    assert_eq!(sql(&database, "SELECT count(*) FROM mainstay.only_older"), "0");

    let schema = contract(&database).unwrap();
    assert_eq!((schema.version, schema.oldest, schema.known), (3, 3, 3));
    let options = Options::new(address(&database), "older");
    let refused = PostgresStore::open(options).unwrap_err();
    assert!(matches!(refused, StoreError::NewerSchema { found: 3, oldest: 3, known: 2 }), "{refused}");
    assert!(refused.to_string().contains("start a newer one"), "{refused}");
    assert_eq!(sql(&database, "SELECT to_regclass('mainstay.only_older') IS NULL"), "t");
    let newer = open_newer(&database, "newer");
    stored(&newer, "last").await;
    newer.close().await;
    assert_eq!(contract(&database).unwrap().oldest, 3, "again is harmless");
}

/// One that stood still, and was not known to be there, neither writes nor enters when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_passed_over_by_a_contraction_stops() {
    let database = postgres::shared().unwrap().database().unwrap();
    let older = open(&database.url, "older");
    let newer = open_newer(&database, "newer");
    stored(&older, "before").await;
    // It says that it is there every 5 s.
    let contracted = async {
        loop {
            sql(&database, "UPDATE mainstay.replicas SET there = false WHERE name = 'older'");
            match contract(&database) {
                Ok(_) => return,
                Err(ContractError::Older { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    soon(contracted).await;
    let refused = older.write(create("late")).await;
    assert!(refused.is_err(), "{refused:?}");
    let ended = async {
        while !matches!(older.ready(), Err(StoreError::Closed)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(ended).await;
    assert_eq!(stored(&newer, "next").await.revision, Revision(2), "what it wrote last is not there");
}

/// A step that needs a table that somebody reads for long holds nobody up for longer than its turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_has_to_wait_lets_writers_pass() {
    let database = postgres::shared().unwrap().database().unwrap();
    let older = open(&database.url, "older");
    stored(&older, "before").await;
    let name = database.name.clone();
    let reads = "BEGIN; SELECT count(*) FROM mainstay.objects; SELECT pg_sleep(4); COMMIT";
    let reader = std::thread::spawn(move || postgres::shared().unwrap().sql(&name, reads).unwrap());
    let sleeps =
        format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event = 'PgSleep'", database.name);
    while sql(&database, &sleeps) == "0" {
        tokio::task::yield_now().await;
    }
    let is_open = Arc::new(AtomicBool::new(false));
    let (opens, told) = (database.url.clone(), Arc::clone(&is_open));
    let opening = std::thread::spawn(move || {
        let options = Options { further: Some(step()), ..Options::new(Address::parse(&opens).unwrap(), "newer") };
        let newer = PostgresStore::open(options).unwrap();
        told.store(true, Ordering::Release);
        newer
    });
    let (mut writes, mut longest) = (0, Duration::ZERO);
    while !is_open.load(Ordering::Acquire) {
        let began = Instant::now();
        older.write(create(&format!("w{writes}"))).await.unwrap();
        longest = longest.max(began.elapsed());
        writes += 1;
    }
    println!("{writes} writes while the step waited; the longest took {} ms", longest.as_millis());
    assert!(writes > 10 && longest < Duration::from_secs(3), "{writes} writes, the longest {longest:?}");
    reader.join().unwrap();
    drop(opening.join().unwrap());
}
