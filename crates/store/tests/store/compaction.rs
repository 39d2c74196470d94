//! Compaction at its edges, under load, and what it leaves on the disk.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_store::{
    Append, ChangeKind, ListQuery, Options, Retention, Revision, Scope, Sender, SqliteStore, Store, StoreError,
    WatchEnd,
};
use tokio::time::{Instant, timeout};

use super::support::{append, create, delete, key, message, open, put, update};

fn count(dir: &Path, what: &str) -> u64 {
    let database = rusqlite::Connection::open(dir.join("state.db")).unwrap();
    database.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
}

async fn becomes(dir: &Path, what: &str, wanted: u64) {
    let waiting = async {
        while count(dir, what) != wanted {
            tokio::task::yield_now().await;
        }
    };
    let outcome = timeout(Duration::from_secs(20), waiting).await;
    assert!(outcome.is_ok(), "{what}: {} instead of {wanted}", count(dir, what));
}

#[tokio::test]
async fn a_deletion_at_the_floor_is_gone_and_stays_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options { ring_changes: 1, ..Options::new(dir.path()) }).unwrap();
    let (gone, stays) = (key("a", "gone"), key("a", "stays"));
    put(&store, create(&stays, "1")).await.unwrap();
    put(&store, create(&gone, "1")).await.unwrap();
    put(&store, delete(&gone, "1", 2)).await.unwrap();
    store.compact(Revision(3)).await.unwrap();
    assert_eq!((store.floor(), count(dir.path(), "history")), (Revision(3), 1));
    let everything = Scope::resource("mainstay.dev/sessions");
    assert!(matches!(store.watch(everything.clone(), Revision(2)).await, Err(StoreError::Expired { .. })));
    let mut watch = store.watch(everything.clone(), Revision(3)).await.unwrap();
    put(&store, create(&gone, "2")).await.unwrap();
    put(&store, update(&stays, "2", 1)).await.unwrap();
    let at = |revision| ListQuery { scope: everything.clone(), limit: None, at: Some(Revision(revision)), after: None };
    assert_eq!(store.list(at(3)).await.unwrap().items.len(), 1);
    assert_eq!(store.list(at(4)).await.unwrap().items.len(), 2);
    assert!(matches!(store.list(at(2)).await, Err(StoreError::Expired { .. })));
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(watch.next().await.unwrap());
    }
    assert_eq!((seen[0].kind, seen[0].previous.is_none()), (ChangeKind::Created, true));
    assert_eq!(seen[1].previous.as_ref().unwrap().revision, Revision(1), "kept for the watches above the floor");
    assert!(matches!(store.compact(Revision(99)).await, Err(StoreError::Future { .. })));
    store.compact(Revision(1)).await.unwrap();
    assert_eq!(store.floor(), Revision(3), "a floor never falls");
}

#[tokio::test]
async fn a_watch_that_compaction_overtakes_ends_as_expired() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options { ring_changes: 1, ..Options::new(dir.path()) }).unwrap();
    for name in 0..10 {
        put(&store, create(&key("a", &name.to_string()), "x")).await.unwrap();
    }
    let mut watch = store.watch(Scope::resource("mainstay.dev/sessions"), Revision(2)).await.unwrap();
    store.compact(Revision(6)).await.unwrap();
    assert_eq!(watch.next().await.unwrap_err(), WatchEnd::Expired);
    assert_eq!(watch.progress(), Revision(2));
}

/// How long the load lasts: for a moment, and for ten minutes in `make drills` (D18).
fn load_lasts() -> Duration {
    let all = std::env::var("MAINSTAY_DRILLS").is_ok_and(|word| word == "all");
    if all { Duration::from_mins(10) } else { Duration::from_secs(2) }
}

#[tokio::test]
async fn under_load_compaction_keeps_up_and_files_stay_small() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let options = Options {
        checkpoint_pages: 200,
        retain_for: Duration::ZERO,
        retain_changes: 100,
        retain_at_most: 500,
        ..Options::new(dir.path())
    };
    let store = SqliteStore::open(options).unwrap();
    let value = "v".repeat(1_000);
    let (until, largest) = (Instant::now() + load_lasts(), Cell::new(0));
    let size = |file: &str| std::fs::metadata(dir.path().join(file)).unwrap().len();
    let work = (0..16).map(|task| {
        let (store, value, largest, size) = (Arc::clone(&store), &value, &largest, &size);
        async move {
            let key = key("load", &task.to_string());
            let mut at = put(&store, create(&key, value)).await.unwrap().revision.0;
            let mut turn = 0;
            while turn < 600 || Instant::now() < until {
                turn += 1;
                at = put(&store, update(&key, value, at)).await.unwrap().revision.0;
                if task == 0 && turn % 20 == 0 {
                    store.compact(Revision(at - 10.min(at))).await.unwrap();
                    largest.set(largest.get().max(size("state.db-wal")));
                }
            }
        }
    });
    futures::future::join_all(work).await;
    println!("{} writes, none refused; the log had {} KiB at most", store.revision(), largest.get() >> 10);
    assert!(largest.get() < 8 << 20, "the log has {} bytes", largest.get());
    assert!(size("state.db") < 4 << 20, "the database has {} bytes", size("state.db"));
    store.compact(store.revision()).await.unwrap();
    assert_eq!(count(dir.path(), "history"), 16);
}

#[tokio::test]
async fn space_of_compacted_objects_is_given_back() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let store = SqliteStore::open(Options { checkpoint_pages: 100, ..Options::new(dir.path()) }).unwrap();
    let value = "v".repeat(1_000_000);
    for turn in 0..16 {
        put(&store, create(&key("a", &turn.to_string()), &value)).await.unwrap();
        put(&store, delete(&key("a", &turn.to_string()), "gone", 2 * turn + 1)).await.unwrap();
    }
    store.compact(store.revision()).await.unwrap();
    let database = dir.path().join("state.db");
    let pages = || {
        let database = rusqlite::Connection::open(&database).unwrap();
        database.query_row("PRAGMA page_count", [], |row| row.get::<_, u64>(0)).unwrap()
    };
    let waiting = async {
        while pages() > 2_200 {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(Duration::from_secs(20), waiting).await.is_ok(), "{} pages are left", pages());
}

#[tokio::test]
async fn trimmed_and_dropped_messages_leave_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options { id_window: 100, ..Options::new(dir.path()) }).unwrap();
    let keep = Retention { messages: 555, ..Retention::ALL };
    let messages = (0..2_000).map(|id| message(&id.to_string(), "text")).collect();
    store.append(Append { keep, ..append("s", messages) }).await.unwrap();
    assert_eq!(store.messages("s", 0, 1).await.unwrap().gap, Some((1, 1_500)), "at once for readers");
    becomes(dir.path(), "messages WHERE body IS NOT NULL", 500).await;
    becomes(dir.path(), "messages", 600).await;
    let again = append("s", vec![message("1450", "again"), message("1", "forgotten")]);
    let numbers = store.append(again).await.unwrap();
    assert_eq!((numbers[0].number, numbers[0].duplicate), (1_451, true));
    assert_eq!((numbers[1].number, numbers[1].duplicate), (2_001, false), "older than the window of ids");
    store.drop_session("s").await.unwrap();
    store.close().await;
    drop(store);
    let store = open(dir.path());
    becomes(dir.path(), "messages", 0).await;
    becomes(dir.path(), "sessions", 0).await;
    assert_eq!(store.messages("s", 0, 1).await.unwrap().last, 0);
}

/// How many bytes of bodies readers can get, and the gap before them.
async fn held(store: &SqliteStore, session: &str) -> (u64, Option<(u64, u64)>) {
    let (mut after, mut bytes, mut gap) = (0, 0, None);
    loop {
        let page = store.messages(session, after, usize::MAX).await.unwrap();
        gap = gap.or(page.gap);
        // A reader's body also holds the message's number.
        let number = |message: &mainstay_store::Message| format!("\"number\":{},", message.number).len();
        bytes += page.messages.iter().map(|one| one.body.len() - number(one)).sum::<usize>() as u64;
        match page.messages.last() {
            Some(last) if last.number < page.last => after = last.number,
            _ => return (bytes, gap),
        }
    }
}

/// A session that says 64 MiB where 4 may be kept leaves a file of a few times 4, and nobody else notices.
#[tokio::test]
async fn a_sessions_bytes_are_bounded_and_their_room_is_used_again() {
    const KEPT: u64 = 4 << 20;
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let options = || Options { checkpoint_pages: 500, id_window: 100, ..Options::new(dir.path()) };
    let store = SqliteStore::open(options()).unwrap();
    store.append(append("quiet", vec![message("q", "stays")])).await.unwrap();
    let (keep, text) = (Retention { messages: 100_000, bytes: KEPT }, "x".repeat(100_000));
    let mut said = 0;
    for turn in 0..64_u64 {
        let messages: Vec<_> = (0..10).map(|at| message(&format!("{turn}-{at}"), &text)).collect();
        said += messages.iter().map(|one| one.body.len() as u64).sum::<u64>();
        let append = Append { keep, sender: Sender::Agent, ..append("loud", messages) };
        assert_eq!(store.append(append).await.unwrap()[9].number, (turn + 1) * 10);
        let (bytes, _) = held(&store, "loud").await;
        assert!(bytes <= KEPT && (bytes == said || bytes > KEPT * 4 / 5), "{bytes} of {said} are kept");
    }
    let file = std::fs::metadata(dir.path().join("state.db")).unwrap().len();
    assert!(file < 4 * KEPT, "{file} bytes for {KEPT}");
    assert_eq!(store.messages("quiet", 0, 9).await.unwrap().messages.len(), 1);
    // What is kept is known after a start, too.
    let before = held(&store, "loud").await;
    store.close().await;
    drop(store);
    let store = SqliteStore::open(options()).unwrap();
    assert_eq!(held(&store, "loud").await, before);
    let more = vec![message("more", &"y".repeat(1_000_000))];
    store.append(Append { keep, sender: Sender::Agent, ..append("loud", more) }).await.unwrap();
    let (bytes, gap) = held(&store, "loud").await;
    assert!(bytes <= KEPT && gap > before.1, "{bytes} bytes, gap {gap:?} after {before:?}");
    // One message larger than all that may be kept is still told.
    let keep = Retention { messages: 100_000, bytes: 1_000 };
    store.append(Append { keep, ..append("loud", vec![message("huge", &text)]) }).await.unwrap();
    assert_eq!(store.messages("loud", 0, 9).await.unwrap().gap, Some((1, 641)));
    assert_eq!(store.messages("loud", 641, 9).await.unwrap().messages.len(), 1);
    // Room that is no more needed is given back to the file system.
    store.drop_session("loud").await.unwrap();
    becomes(dir.path(), "messages", 1).await;
    let pages = || {
        let database = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
        database.query_row("PRAGMA freelist_count", [], |row| row.get::<_, u64>(0)).unwrap()
    };
    let waiting = async {
        while pages() > 2_048 {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(Duration::from_secs(20), waiting).await.is_ok(), "{} pages are free", pages());
}
