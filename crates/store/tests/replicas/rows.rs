//! How many rows statements read, when tables are large and what the database knows of them is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use mainstay_store::operation::{
    Claim, Claimed, Note, OPERATIONS, Queue, Queued, Settlement, State, StepRow, StepState,
};
use mainstay_store::{Draft, Key, ListQuery, Meta, PostgresStore, Revision, Scope, Store, Write};
use mainstay_testkit::postgres::{Cluster, Database, Pooler, shared};

use super::support::{create, open, soon};

/// Objects, and as many operations that wait.
const MANY: usize = 20_000;
/// Rows that one thing that is asked for may read, whichever it is; far fewer than there are.
const FEW: u64 = 60;

/// Rows of large tables that were read: from one end to the other, and by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Read {
    scanned: u64,
    fetched: u64,
}

/// Reads are counted when those who read have gone.
fn read(cluster: &Cluster, database: &Database) -> BTreeMap<String, Read> {
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'";
    while cluster.sql(&database.name, sessions).unwrap() != "0" {
        std::thread::yield_now();
    }
    let counts = "SELECT relname, seq_tup_read, coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE schemaname = 'mainstay'
        AND pg_relation_size(relid) > 64 * 1024";
    let rows = cluster.sql(&database.name, counts).unwrap();
    let row = |row: &str| {
        let fields: Vec<&str> = row.split('|').collect();
        (fields[0].to_owned(), Read { scanned: fields[1].parse().unwrap(), fetched: fields[2].parse().unwrap() })
    };
    rows.lines().map(row).collect()
}

fn operation(name: &str) -> Write {
    let queued = Queued { created_ms: 5, ..Queued::new(format!("lane{}", name.len() % 3), "noop") };
    let meta = Arc::new(Meta { uid: name.into(), ..Meta::default() });
    let draft = Draft { head: "{\"revision\":\"".into(), tail: "\"}".into(), meta, queued: Some(Arc::new(queued)) };
    Write::Create { key: Key::new(OPERATIONS, "a", name), draft, requires: None }
}

async fn fill(store: &PostgresStore) {
    for from in (0..MANY).step_by(1_000) {
        let writes = (from..from + 1_000)
            .flat_map(|at| [create(&format!("object-{at}")), operation(&format!("operation-{at}"))])
            .map(|write| store.write(write));
        for written in soon(join_all(writes)).await {
            written.unwrap();
        }
    }
}

fn end(claimed: &Claimed) -> Settlement {
    let key = claimed.object.key.clone();
    let meta = Arc::new(Meta { uid: Arc::clone(&claimed.attempt.id), ..Meta::default() });
    let draft = Draft { head: "{\"ended\":\"".into(), tail: "\"}".into(), meta, queued: None };
    let write = Write::Update { key, draft, expected: claimed.object.revision };
    Settlement::End { state: State::Succeeded, note: None, write: Box::new(write) }
}

/// Everything that is done all day; gives how many things that were.
async fn work(store: &PostgresStore, way: &str) -> u64 {
    let mut things = 0;
    for round in 0..10 {
        let claim = Claim { limit: 32, per_lane: 1_000, lease: Duration::from_mins(10), now_ms: 10 };
        let claimed = store.claim(claim).await.unwrap().claimed;
        assert_eq!(claimed.len(), 32);
        let attempts: Vec<_> = claimed.iter().map(|claimed| claimed.attempt.clone()).collect();
        store.renew(attempts.clone(), Duration::from_mins(10)).await.unwrap();
        for (at, claimed) in claimed.iter().enumerate() {
            let entry = StepRow { step: "s".into(), state: StepState::Done, attempt: 0, output: "null".into() };
            store.journal(&claimed.attempt, entry).await.unwrap();
            let note = Note { attempt: 1, started_ms: 1, ended_ms: 2, reason: "T".into(), message: String::new() };
            let settlement = match at % 3 {
                0 => Settlement::Retry { run_at_ms: 5, note, undoing: None },
                1 => Settlement::Later { run_at_ms: 1_000_000 },
                _ => end(claimed),
            };
            store.settle(&claimed.attempt, settlement).await.unwrap();
        }
        store.operations(attempts.into_iter().map(|attempt| attempt.id).collect()).await.unwrap();
        things += 32 * 5;
        for at in 0..20 {
            let object = store.write(create(&format!("{way}-{round}-{at}"))).await.unwrap();
            let draft = Draft { head: "{\"r\":\"".into(), tail: "\"}".into(), meta: Arc::default(), queued: None };
            let update = Write::Update { key: object.key.clone(), draft, expected: object.revision };
            store.write(update).await.unwrap();
            store.write(operation(&format!("{way}-{round}-{at}"))).await.unwrap();
            let key = Key::new(OPERATIONS, "a", format!("operation-{}", 19_000 + at));
            assert!(store.get(&key).await.unwrap().is_some());
            things += 4;
        }
        let page = |at| ListQuery { scope: Scope::resource(OPERATIONS), limit: Some(50), at, after: None };
        let newest = store.list(page(None)).await.unwrap();
        assert_eq!(newest.items.len(), 50);
        let then = Revision(newest.revision.0 - 10);
        assert_eq!(store.list(page(Some(then))).await.unwrap().items.len(), 50);
        let mut watch = store.watch(Scope::resource("/pods"), Revision(newest.revision.0 - 100)).await.unwrap();
        soon(watch.next()).await.unwrap();
        things += 200;
    }
    things
}

/// The statistics say what they said when there was nothing, and nobody corrects them.
fn mislead(cluster: &Cluster, database: &Database) {
    let tables = "SELECT format('ALTER TABLE mainstay.%I SET (autovacuum_enabled = off);', relname) FROM pg_class
        WHERE relnamespace = 'mainstay'::regnamespace AND relkind = 'r'";
    let off = cluster.sql(&database.name, tables).unwrap();
    cluster.sql(&database.name, &format!("{off} ANALYZE")).unwrap();
}

/// Works over a way to the database, and looks at what that read.
async fn reads_few(cluster: &Cluster, database: &Database, (way, url): (&str, &str)) {
    let before = tokio::task::block_in_place(|| read(cluster, database));
    let store = open(url, "one");
    let things = work(&store, way).await;
    store.close().await;
    drop(store);
    let after = tokio::task::block_in_place(|| read(cluster, database));
    let none = Read { scanned: 0, fetched: 0 };
    for (table, now) in after {
        let was = before.get(&table).copied().unwrap_or(none);
        let (scanned, fetched) = (now.scanned - was.scanned, now.fetched - was.fetched);
        println!("{way}: {table}: {things} things, {scanned} rows scanned, {fetched} fetched");
        // What is current is loaded once, when the store is opened: that is all of one table, from end to end.
        let loaded = 2 * MANY as u64 + things;
        let most = if table == "objects" { loaded } else { MANY as u64 / 2 };
        assert!(scanned <= most, "{way}: {table}: {things} things scanned {scanned} rows");
        assert!(fetched <= loaded + FEW * things, "{way}: {table}: {things} things fetched {fetched} rows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_reads_a_large_table_from_end_to_end_whatever_statistics_say() {
    let cluster = shared().unwrap();
    let database = cluster.database().unwrap();
    let store = open(&database.url, "one");
    tokio::task::block_in_place(|| mislead(cluster, &database));
    fill(&store).await;
    store.close().await;
    drop(store);
    reads_few(cluster, &database, ("direct", &database.url)).await;

    // Behind a pooler the role has what people are told to give it.
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let told = docs.lines().filter(|line| line.starts_with("ALTER ROLE mainstay IN DATABASE mainstay "));
    let told: Vec<&str> = told.collect();
    assert!(told.len() > 5, "docs/operations.md tells nothing");
    let settings = told.join("\n").replace("DATABASE mainstay", &format!("DATABASE {}", database.name));
    cluster.sql("postgres", &settings).unwrap();
    let pooler = Pooler::start(cluster, 4).unwrap();
    let url = cluster.url_at(pooler.address(), &database.name);
    reads_few(cluster, &database, ("pooled", &url)).await;
}
