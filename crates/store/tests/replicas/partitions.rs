//! The history's partitions: who reads it for long, or changes its form, holds up no write.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::sync::Arc;

use mainstay_store::postgres::{Address, Options};
use mainstay_store::{PostgresStore, Revision, Store};
use mainstay_testkit::postgres::{Database, shared};

use super::support::{create, history, soon};

/// Revisions of one partition.
const SPAN: u64 = 16;

fn open(database: &Database) -> Arc<PostgresStore> {
    let options = Options::new(Address::parse(&database.url).unwrap(), "one");
    PostgresStore::open(Options { span: SPAN, ..options }).unwrap()
}

/// A session that has a lock of the history until it is dropped.
struct Holder(Child);

impl Holder {
    fn of(database: &Database, mode: &str) -> Self {
        let mut psql = shared().unwrap().client("psql");
        psql.args(["--no-psqlrc", "--quiet", &database.name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut psql = psql.spawn().unwrap();
        let lock = format!("BEGIN; LOCK TABLE mainstay.history IN {mode} MODE;\n\\echo held\n");
        psql.stdin.as_mut().unwrap().write_all(lock.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(psql.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(psql)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn count(database: &Database, what: &str) -> u64 {
    shared().unwrap().sql(&database.name, &format!("SELECT count(*) FROM {what}")).unwrap().parse().unwrap()
}

const PARTITIONS: &str = "pg_inherits WHERE inhparent = 'mainstay.history'::regclass";

/// `pg_dump` has this lock for as long as it takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_holds_up_no_write_however_many_partitions_are_begun_meanwhile() {
    let database = shared().unwrap().database().unwrap();
    let store = open(&database);
    let dump = Holder::of(&database, "ACCESS SHARE");
    for number in 0..6 * SPAN {
        soon(store.write(create(&format!("n{number}")))).await.unwrap();
    }
    // What it reads is not taken from it.
    soon(store.compact(store.revision())).await.unwrap();
    assert_eq!(count(&database, "mainstay.history"), 6 * SPAN);
    drop(dump);
    soon(async {
        while count(&database, "mainstay.history") > SPAN {
            store.compact(store.revision()).await.unwrap();
        }
    })
    .await;
    assert_eq!(count(&database, "mainstay.versions"), 6 * SPAN, "all of it is current");
    store.close().await;
}

/// `ANALYZE` and `VACUUM` have this lock, which whoever makes a partition waits for.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_made_before_they_are_needed() {
    let database = shared().unwrap().database().unwrap();
    let store = open(&database);
    store.write(create("first")).await.unwrap();
    assert_eq!(count(&database, PARTITIONS), 1);
    // As every 10 s.
    store.compact(Revision(0)).await.unwrap();
    store.compact(Revision(0)).await.unwrap();
    assert_eq!(count(&database, PARTITIONS), 3);
    let analyze = Holder::of(&database, "SHARE UPDATE EXCLUSIVE");
    for number in 1..3 * SPAN {
        soon(store.write(create(&format!("n{number}")))).await.unwrap();
    }
    drop(analyze);
    // Whoever is faster than that makes them himself.
    for number in 3 * SPAN..6 * SPAN {
        soon(store.write(create(&format!("n{number}")))).await.unwrap();
    }
    let seen = history(&store, Revision(6 * SPAN)).await;
    assert!(seen.iter().map(|(revision, _)| *revision).eq(1..=6 * SPAN));
    store.close().await;
}
