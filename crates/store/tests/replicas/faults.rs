//! What is acknowledged stays, and happens once, whatever becomes of the database and of the way to it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use mainstay_store::{PostgresStore, Revision, Scope, Store, StoreError, WatchEnd};
use mainstay_testkit::postgres::{Cluster, Replication, Settings, shared};
use mainstay_testkit::proxy::{Direction, Fault, Proxy};

use tokio::time::Instant;

use super::support::{create, history, key, open, soon, stored};

/// Where nobody says that a connection is closed, another leads within this, and a second for a machine that is busy.
const SILENT: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_write_whose_answer_was_lost_is_found_out_and_it_is_not_made_again() {
    let cluster = shared().unwrap();
    let database = cluster.database().unwrap();
    let proxy = Proxy::start(cluster.address()).await.unwrap();
    let store = open(&cluster.url_at(proxy.address(), &database.name), "one");
    let beside = open(&database.url, "two");
    for round in 0..5_u64 {
        // The connection is up, and the statement prepared on it.
        assert_eq!(soon(stored(&store, &format!("before{round}"))).await.revision, Revision(2 * round + 1));
        let name = format!("n{round}");
        let mut writing = loop {
            soon(async {
                while store.ready().is_err() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            proxy.set(Fault::CutAfter(Direction::ToClient, 0)).await.unwrap();
            let mut writing = store.write(create(&name));
            // Something else may have met the fault first: then it is refused, and not sent.
            if (&mut writing).now_or_never().is_none() {
                break writing;
            }
            proxy.set(Fault::Pass).await.unwrap();
        };
        // It is there, and its writer does not know.
        let there = async {
            while beside.get(&key(&name)).await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        soon(there).await;
        assert!((&mut writing).now_or_never().is_none());
        proxy.set(Fault::Pass).await.unwrap();
        let written = soon(writing).await.unwrap();
        assert_eq!(written.revision, Revision(2 * round + 2), "no revision is lost, and none given to a repetition");
        assert_eq!(store.get(&key(&name)).await.unwrap().unwrap(), written);
    }
    let seen = history(&store, Revision(10)).await;
    assert!(seen.iter().map(|(revision, _)| *revision).eq(1..=10));
    store.close().await;
    beside.close().await;
}

/// Creates objects until it is told to stop; gives those that were acknowledged, with their revisions.
async fn create_many(
    store: &PostgresStore,
    writer: &str,
    (stop, done): (&AtomicBool, &AtomicU64),
) -> Vec<(u64, String)> {
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("{writer}-{number}");
        number += 1;
        if let Ok(object) = store.write(create(&name)).await {
            acknowledged.push((object.revision.0, name));
            done.fetch_add(1, Ordering::Relaxed);
        } else {
            tokio::task::yield_now().await;
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_database_is_killed_and_replicas_recover_by_themselves() {
    let mut cluster = Cluster::start(Settings::default()).unwrap();
    let database = cluster.database().unwrap();
    let stores = [open(&database.url, "one"), open(&database.url, "two"), open(&database.url, "three")];
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let writers = stores.iter().enumerate().flat_map(|(at, store)| {
        let flags = (&stop, &done);
        (0..4).map(move |writer| async move { create_many(store, &format!("w{at}-{writer}"), flags).await })
    });
    let killer = async {
        for _ in 0..2 {
            let enough = done.load(Ordering::Relaxed) + 100;
            while done.load(Ordering::Relaxed) < enough {
                tokio::task::yield_now().await;
            }
            tokio::task::block_in_place(|| cluster.kill9().and_then(|()| cluster.restart())).unwrap();
        }
        let enough = done.load(Ordering::Relaxed) + 100;
        while done.load(Ordering::Relaxed) < enough {
            tokio::task::yield_now().await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (acknowledged, ()) = soon(async { futures::join!(join_all(writers), killer) }).await;
    let acknowledged: BTreeSet<(u64, String)> = acknowledged.into_iter().flatten().collect();
    let last = stored(&stores[0], "last").await.revision;
    for store in &stores {
        let seen = history(store, last).await;
        assert!(seen.iter().map(|(revision, _)| *revision).eq(1..=last.0), "contiguous, each once");
        let seen: BTreeSet<(u64, String)> = seen.into_iter().collect();
        let lost: Vec<_> = acknowledged.difference(&seen).collect();
        assert!(lost.is_empty(), "{lost:?} were acknowledged");
    }
    for store in stores {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_takes_over_begins_an_epoch_and_gives_no_revision_again() {
    let mut primary = Cluster::start(Settings::default()).unwrap();
    let database = primary.database().unwrap();
    let mut standby = primary.standby(Replication::Async).unwrap();
    let (before, after) = (primary.address(), standby.address());
    let url = primary.url_at(before, &format!("{}?host=127.0.0.1&port={}", database.name, after.port()));
    let store = open(&url, "one");
    stored(&store, "kept").await;
    // This is nowhere but on the primary.
    tokio::task::block_in_place(|| standby.set("primary_conninfo", "")).unwrap();
    let receiving = "SELECT count(*) FROM pg_stat_wal_receiver";
    while tokio::task::block_in_place(|| standby.sql("postgres", receiving)).unwrap() != "0" {
        tokio::task::yield_now().await;
    }
    let newest = stored(&store, "lost").await.revision;
    let mut watch = store.watch(Scope::resource("/pods"), newest).await.unwrap();
    tokio::task::block_in_place(|| {
        primary.kill9()?;
        standby.promote()
    })
    .unwrap();
    let next = soon(stored(&store, "next")).await;
    assert!(next.revision.epoch() > newest.epoch(), "{} after {newest}", next.revision);
    assert_eq!(soon(watch.next()).await.unwrap_err(), WatchEnd::Expired);
    let below = store.watch(Scope::resource("/pods"), newest).await;
    assert!(matches!(below, Err(StoreError::Expired { .. })), "{below:?}");
    assert!(store.get(&key("kept")).await.unwrap().is_some());
    assert!(store.get(&key("lost")).await.unwrap().is_none(), "the standby never had it");
    assert!(store.get(&key("next")).await.unwrap().is_some());
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_where_another_replica_left_it_however_far_behind_this_one_is() {
    let cluster = shared().unwrap();
    let database = cluster.database().unwrap();
    let (one, two) = (open(&database.url, "one"), open(&database.url, "two"));
    let mut behind = 0;
    for round in 0..50 {
        let newest = one.write(create(&format!("n{round}"))).await.unwrap().revision;
        behind += usize::from(two.revision() < newest);
        two.reach(newest).await.unwrap();
        assert!(two.watch(Scope::resource("/pods"), newest).await.is_ok(), "{newest} is there");
    }
    assert!(behind > 0, "it was never behind, so that this shows nothing");
    // What nobody has given is waited for by nobody.
    let never = Revision(two.revision().0 + 1_000);
    soon(two.reach(never)).await.unwrap();
    let future = two.watch(Scope::resource("/pods"), never).await;
    assert!(matches!(future, Err(StoreError::Future { .. })), "{future:?}");
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hears_nothing_has_stopped_before_another_leads() {
    let cluster = shared().unwrap();
    let silent = [Fault::Blackhole, Fault::Half(Direction::ToServer), Fault::Half(Direction::ToClient)];
    let parted = silent.map(|fault| async move {
        let database = cluster.database().unwrap();
        let proxy = Proxy::start(cluster.address()).await.unwrap();
        let one = open(&cluster.url_at(proxy.address(), &database.name), "one");
        let two = open(&database.url, "two");
        let (first, second) = (one.leases(), two.leases());
        let held = soon(first.acquire("a")).await.unwrap();
        proxy.set(fault).await.unwrap();
        let began = Instant::now();
        let next = soon(second.acquire("a")).await.unwrap();
        assert!(held.lost.is_cancelled(), "{fault:?}: both lead");
        let took = began.elapsed();
        assert!(next.term > held.term && took <= SILENT, "{fault:?}: another leads after {took:?} only");
        proxy.set(Fault::Pass).await.unwrap();
        one.close().await;
        two.close().await;
    });
    join_all(parted).await;
}
