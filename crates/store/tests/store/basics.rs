//! Each method does what it says, also after the store was closed and opened again.

use futures::FutureExt;
use mainstay_store::{
    Append, ChangeKind, ListQuery, Options, Requires, Retention, Revision, RunRow, Scope, Sender, SqliteStore, Store,
    StoreError, WatchEnd, Write,
};

use super::support::{append, body, create, delete, draft, key, message, open, put, update};

#[tokio::test]
async fn writes_are_compared_and_swapped_and_survive_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (a, b) = (key("one", "a"), key("two", "b"));
    assert_eq!(put(&store, create(&a, "x")).await.unwrap().revision, Revision(1));
    assert!(matches!(put(&store, create(&a, "y")).await, Err(StoreError::Exists(object)) if object.revision.0 == 1));
    assert!(matches!(put(&store, update(&b, "y", 1)).await, Err(StoreError::Missing)));
    assert_eq!(put(&store, update(&a, "y", 1)).await.unwrap().body, body("y", 2));
    assert!(
        matches!(put(&store, update(&a, "z", 1)).await, Err(StoreError::Conflict(object)) if object.revision.0 == 2)
    );
    assert_eq!(put(&store, create(&b, "b")).await.unwrap().revision, Revision(3));
    assert_eq!(put(&store, delete(&b, "b", 3)).await.unwrap().revision, Revision(4));
    assert_eq!(store.get(&b).await.unwrap(), None);
    let before = store.get(&a).await.unwrap();
    store.close().await;
    assert!(matches!(store.get(&a).await, Err(StoreError::Closed)));
    let store = open(dir.path());
    assert_eq!(store.get(&a).await.unwrap(), before);
    assert_eq!(store.revision(), Revision(4));
    assert_eq!(store.stats().objects, 1);
    assert_eq!(put(&store, create(&b, "b")).await.unwrap().revision, Revision(5));
}

#[tokio::test]
async fn a_create_holds_only_while_what_it_requires_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let namespace = key("", "namespace");
    let within = |name: &str, revision| Write::Create {
        key: key("namespace", name),
        draft: draft("x"),
        requires: Some(Requires { key: namespace.clone(), revision: Revision(revision) }),
    };
    let unmet = |outcome| matches!(outcome, Err(StoreError::Unmet(of)) if of == namespace);
    assert!(unmet(put(&store, within("early", 1)).await));
    put(&store, create(&namespace, "1")).await.unwrap();
    put(&store, within("a", 1)).await.unwrap();
    assert!(matches!(put(&store, within("a", 1)).await, Err(StoreError::Exists(_))));
    // In one batch, each write is judged by those before it.
    let (first, changed, stale, fresh, gone, late) = futures::join!(
        store.write(within("b", 1)),
        store.write(update(&namespace, "2", 1)),
        store.write(within("c", 1)),
        store.write(within("c", 4)),
        store.write(delete(&namespace, "3", 4)),
        store.write(within("d", 4)),
    );
    assert_eq!((first.unwrap().revision.0, changed.unwrap().revision.0), (3, 4));
    assert!(unmet(stale));
    assert_eq!((fresh.unwrap().revision.0, gone.unwrap().revision.0), (5, 6));
    assert!(unmet(late));
    assert_eq!((store.revision(), store.stats().objects), (Revision(6), 3));
}

#[tokio::test]
async fn a_list_keeps_its_snapshot_over_pages() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (namespace, name) in [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("c", "1")] {
        put(&store, create(&key(namespace, name), "old")).await.unwrap();
    }
    let scope = Scope::resource("mainstay.dev/sessions");
    let first = ListQuery { scope: scope.clone(), limit: Some(2), at: None, after: None };
    let page = store.list(first).await.unwrap();
    assert_eq!((page.items.len(), page.remaining, page.revision), (2, Some(3), Revision(5)));
    put(&store, delete(&key("b", "1"), "gone", 3)).await.unwrap();
    put(&store, update(&key("c", "1"), "new", 5)).await.unwrap();
    put(&store, create(&key("b", "11"), "new")).await.unwrap();
    let next =
        ListQuery { scope, limit: Some(2), at: Some(page.revision), after: Some(("a".to_owned(), "2".to_owned())) };
    let page = store.list(next.clone()).await.unwrap();
    let names: Vec<_> = page.items.iter().map(|object| object.key.to_string()).collect();
    assert_eq!(names, ["mainstay.dev/sessions/b/1", "mainstay.dev/sessions/b/2"]);
    assert!(page.more);
    let rest = ListQuery { after: Some(("b".to_owned(), "2".to_owned())), ..next.clone() };
    assert_eq!(store.list(rest).await.unwrap().items[0].body, body("old", 5));
    store.compact(Revision(6)).await.unwrap();
    assert!(matches!(store.list(next.clone()).await, Err(StoreError::Expired { .. })));
    let future = ListQuery { at: Some(Revision(99)), ..next };
    assert!(matches!(store.list(future).await, Err(StoreError::Future { .. })));
}

#[tokio::test]
async fn a_watch_replays_what_left_the_ring_and_goes_on_live() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options { ring_changes: 3, ..Options::new(dir.path()) }).unwrap();
    let watched = key("ns", "watched");
    put(&store, create(&watched, "1")).await.unwrap();
    put(&store, update(&watched, "2", 1)).await.unwrap();
    put(&store, create(&key("other", "1"), "noise")).await.unwrap();
    let mut revision = store.get(&watched).await.unwrap().unwrap().revision.0;
    for _ in 0..5 {
        revision = put(&store, update(&watched, "u", revision)).await.unwrap().revision.0;
    }
    let mut watch = store.watch(Scope::object(&watched), Revision(0)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 7 {
        for change in watch.next().await.unwrap() {
            let previous = change.previous.as_ref().map(|object| object.revision.0);
            seen.push((change.revision().0, change.kind, previous));
        }
    }
    assert_eq!(seen[0], (1, ChangeKind::Created, None));
    assert_eq!(seen[1], (2, ChangeKind::Updated, Some(1)));
    assert_eq!(seen[2], (4, ChangeKind::Updated, Some(2)));
    assert_eq!(seen[6].0, 8);
    assert_eq!(watch.progress(), Revision(8));
    assert!(watch.next().now_or_never().is_none(), "nothing more, but it has joined the live ring");
    put(&store, create(&key("other", "x"), "noise")).await.unwrap();
    assert_eq!(watch.progress(), Revision(9));
    put(&store, delete(&watched, "last", 8)).await.unwrap();
    assert_eq!(watch.progress(), Revision(9));
    let change = watch.next().await.unwrap().remove(0);
    assert_eq!(change.frame, format!("{{\"type\":\"DELETED\",\"object\":{}}}\n", body("last", 10)));
    assert_eq!(store.stats().watchers, 1);
    store.close().await;
    assert_eq!(watch.next().await.unwrap_err(), WatchEnd::Closed);
    drop(watch);
    assert_eq!(store.stats().watchers, 0);
}

#[tokio::test]
async fn a_slow_watcher_ends_after_what_it_took_and_resumes_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options { watcher_bytes: 600, ..Options::new(dir.path()) }).unwrap();
    let all = Scope::resource("mainstay.dev/sessions");
    let mut watch = store.watch(all.clone(), Revision(0)).await.unwrap();
    put(&store, create(&key("ns", "first"), "x")).await.unwrap();
    assert_eq!(watch.next().await.unwrap()[0].revision(), Revision(1));
    for name in 0..10 {
        put(&store, create(&key("ns", &name.to_string()), "x")).await.unwrap();
    }
    assert_eq!(watch.next().await.unwrap_err(), WatchEnd::Slow);
    assert_eq!(watch.progress(), Revision(1), "not a bookmark over what it did not get");
    assert_eq!(store.stats().slow_watchers_ended, 1);
    // Resumed, it gets every change once, though not all of them may wait for it at a time.
    let mut watch = store.watch(all, watch.progress()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 10 {
        seen.extend(watch.next().await.unwrap().iter().map(|change| change.revision().0));
    }
    assert_eq!(seen, (2..=11).collect::<Vec<u64>>());
    assert_eq!(store.stats().slow_watchers_ended, 1);
}

#[tokio::test]
async fn a_watcher_that_takes_nothing_keeps_no_more_than_its_bound() {
    const BIG: usize = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let options = Options { watcher_bytes: 8 * BIG, ring_bytes: 100 * BIG, ..Options::new(dir.path()) };
    let store = SqliteStore::open(options).unwrap();
    let (value, one) = ("x".repeat(BIG), key("ns", "one"));
    put(&store, create(&one, &value)).await.unwrap();
    for revision in 1..20 {
        put(&store, update(&one, &value, revision)).await.unwrap();
    }
    // The ring holds all that was missed; but it is more than may wait for a watcher, and does not wait for this one.
    let mut late = store.watch(Scope::object(&one), Revision(0)).await.unwrap();
    assert_eq!(store.stats().watchers, 0);
    let mut seen = 0;
    while seen < 20 {
        let changes = late.next().await.unwrap();
        assert_eq!(changes[0].revision().0, seen + 1);
        seen = changes.last().unwrap().revision().0;
    }
    assert!(late.next().now_or_never().is_none());
    assert_eq!(store.stats().watchers, 1);
    // A change weighs as much as both states that it keeps: three of them may wait, and four may not.
    for revision in 20..24 {
        put(&store, update(&one, &value, revision)).await.unwrap();
        assert_eq!(store.stats().slow_watchers_ended, u64::from(revision == 23));
    }
    assert_eq!(late.next().await.unwrap_err(), WatchEnd::Slow);
    assert_eq!(late.progress(), Revision(20));
}

#[tokio::test]
async fn messages_are_numbered_once_per_id_also_after_trimming() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let append = |ids: &[&str]| append("s", ids.iter().map(|id| message(id, &format!("text of {id}"))).collect());
    let mut counter = store.message_counter("s").await.unwrap();
    assert_eq!(*counter.borrow_and_update(), 0);
    let numbers = |appended: Vec<mainstay_store::Appended>| -> Vec<(u64, bool)> {
        appended.iter().map(|one| (one.number, one.duplicate)).collect()
    };
    let first = store.append(append(&["a", "b", "a"])).await.unwrap();
    assert_eq!(numbers(first), [(1, false), (2, false), (1, true)]);
    counter.changed().await.unwrap();
    assert_eq!(*counter.borrow_and_update(), 2);
    let second = store.append(append(&["b", "c", "d"])).await.unwrap();
    assert_eq!(numbers(second), [(2, true), (3, false), (4, false)]);
    let page = store.messages("s", 1, 2).await.unwrap();
    assert_eq!((page.last, page.gap, page.messages.len()), (4, None, 2));
    assert_eq!(page.messages[0].body, "{\"number\":2,\"text\":\"text of b\"}");
    let keep = Retention { messages: 1, ..Retention::ALL };
    store.append(Append { keep, ..append(&["d", "e"]) }).await.unwrap();
    let page = store.messages("s", 1, 10).await.unwrap();
    assert_eq!((page.gap, page.messages.len(), page.messages[0].number), (Some((2, 4)), 1, 5));
    store.close().await;
    drop(store);
    let store = open(dir.path());
    assert_eq!(numbers(store.append(append(&["a", "f"])).await.unwrap()), [(1, true), (6, false)]);
    // Another sender's ids are others.
    let own = Append { sender: Sender::Agent, ..append(&["a", "f", "a"]) };
    assert_eq!(numbers(store.append(own).await.unwrap()), [(7, false), (8, false), (7, true)]);
    let platform = Append { sender: Sender::Platform, ..append(&["f"]) };
    assert_eq!(numbers(store.append(platform).await.unwrap()), [(9, false)]);
    assert_eq!(*store.message_counter("s").await.unwrap().borrow(), 9);
    let mut counter = store.message_counter("s").await.unwrap();
    store.drop_session("s").await.unwrap();
    assert!(counter.changed().await.is_err());
    assert_eq!(store.messages("s", 0, 10).await.unwrap().last, 0);
    assert_eq!(numbers(store.append(append(&["e"])).await.unwrap()), [(1, false)]);
}

#[tokio::test]
async fn run_rows_and_counters_survive() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let row = |run| RunRow { run, pod_uid: "p".to_owned(), offered: 7, ..RunRow::default() };
    assert_eq!(store.run_row("s").await.unwrap(), None);
    store.put_run_row("s", row(1), true).await.unwrap();
    store.put_run_row("s", row(2), false).await.unwrap();
    assert_eq!(store.run_row("s").await.unwrap(), Some(row(2)));
    assert_eq!(store.raise("fence").await.unwrap(), 1);
    assert_eq!(store.raise("fence").await.unwrap(), 2);
    assert_eq!(store.raise("boot").await.unwrap(), 1);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.run_row("s").await.unwrap(), Some(row(2)));
    assert_eq!(store.raise("fence").await.unwrap(), 3);
    assert_eq!(store.revision(), Revision(0));
}

#[tokio::test]
async fn a_directory_is_for_one_instance_and_not_for_an_older_program() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused = SqliteStore::open(Options::new(dir.path())).unwrap_err();
    let pid = std::process::id();
    let said = format!("another instance uses this data directory: process {pid} holds its lock");
    assert_eq!(refused.to_string(), said);
    // A lock file that says nothing, as an older program leaves it.
    std::fs::write(dir.path().join("lock"), "").unwrap();
    let refused = SqliteStore::open(Options::new(dir.path())).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { pid: None }), "{refused}");
    store.close().await;
    drop(store);
    let database = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let refused = SqliteStore::open(Options::new(dir.path())).unwrap_err();
    assert!(matches!(refused, StoreError::NewerSchema { found: 99, oldest: 99, known: 5 }), "{refused}");
}

#[tokio::test]
async fn too_much_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options { queue_items: 1, ..Options::new(dir.path()) }).unwrap();
    let mut huge = draft("x");
    huge.head = vec![b' '; mainstay_store::object::MAX_OBJECT].into();
    let write = Write::Create { key: key("a", "a"), draft: huge, requires: None };
    assert!(matches!(put(&store, write).await, Err(StoreError::TooLarge { .. })));
    let writes: Vec<_> = (0..64).map(|n| store.write(create(&key("a", &n.to_string()), "x"))).collect();
    let outcomes = futures::future::join_all(writes).await;
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(StoreError::Busy))));
    let succeeded = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
    assert_eq!(store.revision(), Revision(succeeded));
}

#[tokio::test]
async fn a_dropped_write_may_still_commit_and_writers_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    drop(store.write(create(&key("a", "dropped"), "x")));
    let writes = (0..200).map(|n| store.write(create(&key("a", &n.to_string()), "x")));
    assert!(futures::future::join_all(writes).await.iter().all(Result::is_ok));
    assert_eq!(store.revision(), Revision(201));
    assert!(store.stats().commits < 100, "{:?}", store.stats());
    let mut watch = store.watch(Scope::resource("mainstay.dev/sessions"), Revision(0)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().len(), 201);
}

/// Whoever acts on a change finds it in every read and in every other watch: a node agent that sees a Pod must not be
/// told by a rights check, fed by a watch of its own, that there is no such Pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_handed_out_when_all_reads_and_watches_have_it() {
    const WRITES: u64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut eager = store.watch(Scope::resource("mainstay.dev/sessions"), Revision(0)).await.unwrap();
    let mut other = store.watch(Scope::resource("mainstay.dev/sessions").within("ns"), Revision(0)).await.unwrap();
    let reader = {
        let store = store.clone();
        std::thread::spawn(move || {
            let mut last = 0;
            while last < WRITES {
                // Polled hard from a thread of its own, so that it looks between the steps of a publication.
                let Some(changes) = eager.next().now_or_never() else { continue };
                last = changes.unwrap().last().unwrap().revision().0;
                assert!(store.revision().0 >= last, "handed out before it was published");
                let mut seen = other.progress().0;
                while let Some(more) = other.next().now_or_never() {
                    seen = more.unwrap().last().unwrap().revision().0;
                }
                assert!(seen.max(other.progress().0) >= last, "another watch does not have it yet");
            }
        })
    };
    let writes = (0..WRITES).map(|name| put(&store, create(&key("ns", &name.to_string()), "x")).map(Result::unwrap));
    futures::future::join_all(writes.map(Box::pin)).await;
    reader.join().unwrap();
}
