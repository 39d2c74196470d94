//! A database that is another one, or an earlier state of itself: no revision, term or number is given twice.

use std::path::Path;
use std::sync::Arc;

use mainstay_store::postgres::{Address, Options};
use mainstay_store::{PostgresStore, Scope, Store, WatchEnd};
use mainstay_testkit::postgres::{Database, Pooler, shared};

use super::support::{create, key, open, soon, stored};

/// As on a disk that is another's: what says so is this alone.
const MOVED: &str = "UPDATE mainstay.log SET place = 'elsewhere'";

fn sql(database: &Database, statements: &str) -> String {
    shared().unwrap().sql(&database.name, statements).unwrap()
}

/// A replica that keeps in this directory what it has seen.
fn remembering(database: &Database, dir: &Path) -> Arc<PostgresStore> {
    let options = Options::new(Address::parse(&database.url).unwrap(), "one");
    PostgresStore::open(Options { seen: Some(dir.join("seen.json")), ..options }).unwrap()
}

/// A pooler keeps its clients' connections over a failover: what is behind them is another server then.
#[tokio::test(flavor = "multi_thread")]
async fn who_did_not_see_a_failover_neither_writes_nor_counts_nor_leads_in_the_epoch_before() {
    let cluster = shared().unwrap();
    let (database, pooler) = (cluster.database().unwrap(), Pooler::start(cluster, 4).unwrap());
    let store = open(&cluster.url_at(pooler.address(), &database.name), "one");
    let leases = store.leases();
    let held = soon(leases.acquire("a")).await.unwrap();
    let (mut newest, mut counted, mut term) =
        (stored(&store, "before").await.revision, store.raise("c").await.unwrap(), held.term);
    for (round, first) in ["write", "count", "lead"].into_iter().enumerate() {
        let mut watch = store.watch(Scope::resource("/pods"), newest).await.unwrap();
        sql(&database, MOVED);
        // Whatever is done first.
        match first {
            "write" => drop(stored(&store, "first").await),
            "count" => drop(soon(store.raise("c")).await.unwrap()),
            _ => soon(leases.acquire("b")).await.unwrap().release(),
        }
        let next = stored(&store, &format!("after{round}")).await.revision;
        assert!(next.epoch() > newest.epoch(), "{first}: {next} after {newest}");
        let number = soon(store.raise("c")).await.unwrap();
        assert!(number > counted && number >> 32 == next.epoch(), "{first}: {number} after {counted}");
        let held = soon(leases.acquire("c")).await.unwrap();
        assert!(held.term > term && held.term >> 32 == next.epoch(), "{first}: {} after {term}", held.term);
        assert_eq!(soon(watch.next()).await.unwrap_err(), WatchEnd::Expired);
        (newest, counted, term) = (next, number, held.term);
        held.release();
    }
    store.close().await;
}

/// The disk's snapshot looks as the database did then, and nobody who is there has seen more: but one who was has kept that.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_put_back_is_told_by_what_a_replica_has_kept() {
    let (database, dir) = (shared().unwrap().database().unwrap(), tempfile::tempdir().unwrap());
    let store = remembering(&database, dir.path());
    stored(&store, "kept").await;
    let lost = stored(&store, "lost").await.revision;
    store.close().await;
    sql(
        &database,
        "DELETE FROM mainstay.history WHERE revision > 1; DELETE FROM mainstay.objects WHERE revision > 1;
         UPDATE mainstay.log SET revision = 1",
    );
    let store = remembering(&database, dir.path());
    let next = stored(&store, "next").await.revision;
    assert!(next.epoch() > lost.epoch(), "{next} after {lost}");
    assert!(store.get(&key("kept")).await.unwrap().is_some());
    assert!(store.get(&key("lost")).await.unwrap().is_none());
    store.close().await;
    // All is as it was left.
    let store = remembering(&database, dir.path());
    assert_eq!(store.revision(), next);
    store.close().await;
    // What was seen of one database says nothing of others.
    let other = shared().unwrap().database().unwrap();
    let store = remembering(&other, dir.path());
    assert_eq!(stored(&store, "first").await.revision.0, 1);
    store.close().await;
}

/// Into two new databases, one after the other; between, it was at work.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_restored_twice_begins_two_epochs() {
    let cluster = shared().unwrap();
    let (database, dir) = (cluster.database().unwrap(), tempfile::tempdir().unwrap());
    let store = remembering(&database, dir.path());
    let mut newest = stored(&store, "kept").await.revision;
    store.close().await;
    let dump = cluster.client("pg_dump").arg(&database.name).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    for round in 0..2 {
        let restored = cluster.database().unwrap();
        sql(&restored, &String::from_utf8(dump.stdout.clone()).unwrap());
        let store = remembering(&restored, dir.path());
        assert!(store.get(&key("kept")).await.unwrap().is_some());
        let next = stored(&store, &format!("n{round}")).await.revision;
        assert!(next.epoch() > newest.epoch(), "{next} after {newest}");
        newest = next;
        store.close().await;
    }
}

/// All that is current is copied, which takes its time.
#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_an_epoch_may_take_longer_than_any_statement() {
    let database = shared().unwrap().database().unwrap();
    let store = open(&database.url, "one");
    let before = stored(&store, "kept").await.revision;
    store.close().await;
    let slow = "SET ROLE mainstay; SET search_path = mainstay;
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(16); RETURN NULL; END $$;
         CREATE TRIGGER slow AFTER INSERT ON kept FOR EACH STATEMENT EXECUTE FUNCTION slow();";
    sql(&database, &format!("{slow} {MOVED}"));
    let store = tokio::task::block_in_place(|| open(&database.url, "one"));
    assert!(store.revision().epoch() > before.epoch());
    assert!(store.get(&key("kept")).await.unwrap().is_some());
    soon(store.write(create("next"))).await.unwrap();
    store.close().await;
}
