//! Replicas behind a transaction pooler, which gives each transaction whatever session is free.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use futures::future::join_all;
use mainstay_store::{Revision, Scope, Store};
use mainstay_testkit::postgres::{Cluster, Database, Pooler, shared};
use mainstay_testkit::proxy::{Fault, Proxy};
use tokio::time::Instant;

use super::support::{create, history, open, soon};

/// Fewer than two replicas have connections.
const SESSIONS: u32 = 4;

fn pooled() -> (&'static Cluster, Database, Pooler) {
    let cluster = shared().unwrap();
    let (database, pooler) = (cluster.database().unwrap(), Pooler::start(cluster, SESSIONS).unwrap());
    (cluster, database, pooler)
}

/// What a client of the pooler is answered, in a session that was others' before.
fn ask(url: &str, sql: &str) -> String {
    let output = Command::new("psql").args(["--no-psqlrc", "-qAtc", sql, url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_transaction_pooler_replicas_write_and_watch_and_leave_nothing_in_sessions() {
    let (cluster, database, pooler) = pooled();
    let url = cluster.url_at(pooler.address(), &database.name);
    let stores = ["one", "two", "three"].map(|name| open(&url, name));
    let writers = stores.iter().enumerate().flat_map(|(at, store)| {
        (0..8).map(move |writer| async move {
            let mut made = Vec::new();
            for number in 0..25 {
                let name = format!("w{at}-{writer}-{number}");
                made.push((store.write(create(&name)).await.unwrap().revision.0, name));
            }
            made
        })
    });
    let made: BTreeSet<(u64, String)> = soon(join_all(writers)).await.into_iter().flatten().collect();
    for store in &stores {
        let seen = history(store, Revision(600)).await;
        assert!(seen.iter().map(|(revision, _)| *revision).eq(1..=600), "contiguous, each once");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), made);
    }
    // Nobody can listen: what another writes is seen by looking.
    let mut watch = stores[1].watch(Scope::resource("/pods"), Revision(600)).await.unwrap();
    let written = Instant::now();
    stores[0].write(create("told")).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().len(), 1);
    println!("another replica's watch shows it after {} ms", written.elapsed().as_millis());

    // What the stores did is in no session: whoever comes next, of whatever program, finds it as it was.
    let fresh = "SELECT current_setting('search_path'), current_setting('enable_seqscan'),
        current_setting('statement_timeout'), current_setting('mainstay.mark', true),
        (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_listening_channels())";
    for _ in 0..8 {
        assert_eq!(ask(&url, fresh), "\"$user\", public|on|0||0|0");
    }
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 19795
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(ask(&database.url, locks), "0", "a lock of a session that nobody owns says nothing");
    for store in stores {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_transaction_pooler_a_leader_that_is_gone_is_followed_when_it_was_silent() {
    let (cluster, database, pooler) = pooled();
    let proxy = Proxy::start(pooler.address()).await.unwrap();
    let one = open(&cluster.url_at(proxy.address(), &database.name), "one");
    let two = open(&cluster.url_at(pooler.address(), &database.name), "two");
    let (first, second) = (one.leases(), two.leases());
    // One that is handed back is taken at once.
    let held = soon(first.acquire("a")).await.unwrap();
    let (next, ()) = tokio::join!(soon(second.acquire("a")), async { held.release() });
    next.unwrap().release();
    let held = soon(first.acquire("a")).await.unwrap();
    proxy.set(Fault::Blackhole).await.unwrap();
    let began = Instant::now();
    let next = soon(second.acquire("a")).await.unwrap();
    let took = began.elapsed();
    println!("the lease went on after {} ms", took.as_millis());
    assert!(held.lost.is_cancelled() && next.term > held.term, "both lead");
    assert!(took >= Duration::from_secs(7) && took <= Duration::from_secs(12), "another leads after {took:?}");
    proxy.set(Fault::Pass).await.unwrap();
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_transaction_pooler_commits_are_durable_or_nobody_enters() {
    let (cluster, database, pooler) = pooled();
    let url = cluster.url_at(pooler.address(), &database.name);
    let weak = format!("ALTER DATABASE {} SET synchronous_commit = off", database.name);
    cluster.sql("postgres", &weak).unwrap();
    let refused = tokio::task::block_in_place(|| {
        let options =
            mainstay_store::postgres::Options::new(mainstay_store::postgres::Address::parse(&url).unwrap(), "one");
        mainstay_store::PostgresStore::open(options)
    });
    let refused = mainstay_runtime::failure::chain_of(&refused.unwrap_err());
    assert!(refused.contains("synchronous_commit"), "{refused}");
}
