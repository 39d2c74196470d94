//! What a copy holds, and what a clean end leaves.

use std::sync::Arc;

use super::*;
use crate::message::{Append, NewMessage, Retention, Sender};
use crate::object::{Draft, Key, Meta, Write};
use crate::sqlite::{Options, SqliteStore};
use crate::{Scope, Store};

/// A create of one of many objects.
pub(in crate::sqlite) fn create(name: &str) -> Write {
    let meta = Arc::new(Meta { uid: name.into(), ..Meta::default() });
    let head = format!("{{\"metadata\":{{\"uid\":\"{name}\",\"resourceVersion\":\"");
    let draft = Draft { head: head.into(), tail: "\"}}".into(), meta, queued: None };
    Write::Create { key: Key::new("/pods", "a", name), draft, requires: None }
}

pub(in crate::sqlite) fn open(dir: &Path) -> Arc<SqliteStore> {
    SqliteStore::open(Options::new(dir)).unwrap()
}

/// The objects in a database file.
fn names(database: &Path) -> Vec<String> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut select = connection.prepare("SELECT name FROM objects ORDER BY revision").unwrap();
    select.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_what_was_acknowledged_before_it_whatever_is_written_meanwhile() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path());
    for number in 0..2_000 {
        store.write(create(&format!("early-{number:04}"))).await.unwrap();
    }
    // More than one stride: what is written between two must not be in it.
    for number in 0..16 {
        let body = format!("{{\"text\":\"{}\"}}", "x".repeat(1_000_000));
        let messages = vec![NewMessage { id: number.to_string().into(), kind: "agent".into(), body: body.into() }];
        let append = Append { session: "s".into(), sender: Sender::Agent, messages, keep: Retention::ALL };
        store.append(append).await.unwrap();
    }
    let copied = to.path().join("copy");
    let (later, mut words) = (std::cell::Cell::new(0), Vec::new());
    let contents = copy(dir.path(), &copied, &mut |what, done, all| {
        words.push((what, done, all));
        // In the middle of it: the writer waits for no copy, and no copy begins anew because of it.
        if later.get() == 10 {
            return;
        }
        let late = store.write(create(&format!("late-{}", later.get())));
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(late)).unwrap();
        later.set(later.get() + 1);
    })
    .unwrap();
    assert!(later.get() > 2, "{words:?}");
    assert_eq!((contents.revision, contents.objects, contents.epoch), (Revision(2_000), 2_000, 0));
    let found = names(&copied);
    assert_eq!((found.len(), found.iter().all(|name| name.starts_with("early-"))), (2_000, true));
    assert!(words.iter().all(|(_, done, all)| done <= all) && words.last().is_some_and(|(_, done, all)| done == all));
    assert_eq!(std::fs::metadata(&copied).unwrap().len(), words[0].2, "no log beside it");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&copied).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(store.revision().0, 2_000 + later.get());
}

#[tokio::test]
async fn a_copy_is_of_a_state_only() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let refused = |dir: &Path| copy(dir, &to.path().join("copy"), &mut |_, _, _| {}).unwrap_err();
    assert!(matches!(refused(dir.path()), StateError::Missing(_)));
    assert!(matches!(refused(&dir.path().join("none")), StateError::Missing(_)));
    std::fs::write(dir.path().join(STATE), "").unwrap();
    assert!(matches!(refused(dir.path()), StateError::Missing(_)));
    drop(open(dir.path()));
    let database = Connection::open(dir.path().join(STATE)).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    assert!(matches!(refused(dir.path()), StateError::Store(StoreError::NewerSchema { found: 99, .. })));
    assert!(!to.path().join("copy").exists());
}

/// Whoever still looks would otherwise leave a log behind, which would be replayed into whatever comes to lie beside it.
#[tokio::test]
async fn after_a_clean_end_the_database_is_one_file_though_somebody_looks_at_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write(create("first")).await.unwrap();
    // A reader of the store's own, too.
    let scope = Scope { resource: "mainstay.dev/operations".into(), namespace: None, name: None };
    store.list(crate::ListQuery { scope, limit: None, at: None, after: None }).await.unwrap();
    let looking = look(dir.path()).unwrap();
    contents(&looking).unwrap();
    store.write(create("second")).await.unwrap();
    store.close().await;
    drop((store, looking));
    let log = std::fs::metadata(dir.path().join("state.db-wal")).map_or(0, |log| log.len());
    assert_eq!(log, 0, "the log holds nothing any more");
    let alone = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join(STATE), alone.path().join(STATE)).unwrap();
    assert_eq!(names(&alone.path().join(STATE)), ["first", "second"]);
}
