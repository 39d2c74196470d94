//! Epochs, and a crash at every point of a restore.

use super::*;
use crate::Store;
use crate::sqlite::backup::copy;
use crate::sqlite::backup::tests::{create, open};
use crate::{Scope, StoreError};

const EPOCH_1: u64 = 1 << 32;

fn backup(dir: &Path) -> tempfile::TempDir {
    let kept = tempfile::tempdir().unwrap();
    copy(dir, &kept.path().join(STATE), &mut |_, _, _| {}).unwrap();
    kept
}

fn restore(kept: &Path, dir: &Path, replace: bool) -> Result<Restored, StateError> {
    let restore = Restore::begin(dir, &["keys"], replace)?;
    fs::copy(kept.join(STATE), restore.place().join(STATE)).unwrap();
    fs::create_dir(restore.place().join("keys")).unwrap();
    fs::write(restore.place().join("keys/data.key"), "restored").unwrap();
    restore.finish()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn pods() -> Scope {
    Scope { resource: "/pods".into(), namespace: None, name: None }
}

#[tokio::test]
async fn nothing_that_was_given_after_the_backup_is_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write(create("kept")).await.unwrap();
    assert_eq!(store.raise("fence").await.unwrap(), 1);
    let kept = backup(dir.path());
    for number in 0..1_000 {
        store.write(create(&format!("lost-{number}"))).await.unwrap();
    }
    let mut lost = Vec::new();
    for counter in ["fence", "lease/new"] {
        for _ in 0..5 {
            lost.push((counter, store.raise(counter).await.unwrap()));
        }
    }
    store.close().await;
    drop(store);

    let restored = restore(kept.path(), dir.path(), true).unwrap();
    assert_eq!((restored.contents.revision, restored.contents.epoch), (Revision(EPOCH_1), 1));
    let store = open(dir.path());
    assert_eq!((store.revision(), store.floor()), (Revision(EPOCH_1), Revision(EPOCH_1)));
    let stale = store.watch(pods(), Revision(500)).await.unwrap_err();
    assert!(matches!(stale, StoreError::Expired { .. }), "{stale}");
    let written = store.write(create("lost-7")).await.unwrap();
    assert_eq!(written.revision, Revision(EPOCH_1 + 1), "the key is free, the revision is new");
    for counter in ["fence", "lease/new"] {
        let raised = store.raise(counter).await.unwrap();
        assert!(!lost.contains(&(counter, raised)) && raised > EPOCH_1, "{counter} {raised}");
    }
    assert!(store.watch(pods(), Revision(EPOCH_1)).await.is_ok());
    store.close().await;
    drop(store);

    // The same once more: an epoch is begun once, also when nothing of it can be read any more.
    fs::write(dir.path().join(STATE), "no database at all, and longer than nothing").unwrap();
    let again = restore(kept.path(), dir.path(), true).unwrap();
    assert_eq!(again.contents.epoch, 2);
    fs::remove_file(dir.path().join(EPOCH)).unwrap();
    assert_eq!(restore(kept.path(), dir.path(), true).unwrap().contents.epoch, 3, "the database tells, too");
    for name in [EPOCH, STATE] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    assert_eq!(restore(kept.path(), dir.path(), true).unwrap().contents.epoch, 4, "and what was set aside");
    let elsewhere = tempfile::tempdir().unwrap();
    let mut begun = Restore::begin(elsewhere.path(), &[], false).unwrap();
    begun.above(Revision(8 * EPOCH_1 + 3));
    fs::copy(kept.path().join(STATE), begun.place().join(STATE)).unwrap();
    assert_eq!(begun.finish().unwrap().contents.epoch, 9, "so does the world");
}

#[tokio::test]
async fn attempts_that_may_go_on_are_numbered_above_the_epoch_and_history_is_only_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = store.write(create("changed")).await.unwrap();
    let key = first.key.clone();
    let crate::Write::Create { draft, .. } = create("changed") else { unreachable!() };
    store.write(crate::Write::Update { key, draft, expected: first.revision }).await.unwrap();
    store.close().await;
    drop(store);
    let database = Connection::open(dir.path().join(STATE)).unwrap();
    for state in 0..7 {
        let insert = "INSERT INTO operations (uid, namespace, name, lane, handler, priority, created, state, run_at,
            cancelled, replays, attempt) VALUES (?1, '', '', '', '', 0, 0, ?1, 0, 0, 0, ?1)";
        database.execute(insert, [state]).unwrap();
    }
    drop(database);
    let to = tempfile::tempdir().unwrap();
    let restored = restore(backup(dir.path()).path(), to.path(), false).unwrap();
    assert_eq!((restored.aside, restored.contents.objects), (None, 1));
    let database = Connection::open(to.path().join(STATE)).unwrap();
    let mut select = database.prepare("SELECT attempt FROM operations ORDER BY state").unwrap();
    let attempts: Vec<u64> = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(attempts, [EPOCH_1, EPOCH_1, EPOCH_1, EPOCH_1, 4, 5, EPOCH_1], "ended for good: 4 and 5");
    let history: u64 = database.query_row("SELECT count(*) FROM history", [], |row| row.get(0)).unwrap();
    assert_eq!(history, 1);
}

#[tokio::test]
async fn what_is_there_or_in_use_is_not_touched() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(open(dir.path()));
    let kept = backup(dir.path());
    fs::create_dir(to.path().join("keys")).unwrap();
    let Err(StateError::Present { found, .. }) = restore(kept.path(), to.path(), false) else { panic!() };
    assert_eq!(found, ["keys"]);
    let store = open(to.path());
    for replace in [false, true] {
        let refused = restore(kept.path(), to.path(), replace).unwrap_err();
        assert!(matches!(refused, StateError::Store(StoreError::Locked { .. })), "{refused}");
    }
    store.close().await;
    drop(store);
    let before = names(to.path());
    assert!(matches!(restore(kept.path(), to.path(), false), Err(StateError::Present { .. })));
    assert_eq!(names(to.path()), before);

    // With leave: what was there is kept, its log, too, which is not taken for the new database's.
    fs::write(to.path().join("state.db-wal"), "an old log").unwrap();
    let aside = restore(kept.path(), to.path(), true).unwrap().aside.unwrap();
    assert!(["keys", STATE, "state.db-wal"].iter().all(|name| aside.join(name).exists()), "{:?}", names(&aside));
    assert_eq!(names(to.path()).iter().filter(|name| name.starts_with("state.db")).count(), 1);
}

/// A directory as a crash leaves it after `moves` of the renames of a completion.
fn cut_short(kept: &Path, moves: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(STATE), "old").unwrap();
    fs::write(dir.path().join("state.db-wal"), "old").unwrap();
    fs::create_dir(dir.path().join("keys")).unwrap();
    fs::write(dir.path().join("keys/data.key"), "old").unwrap();
    let ready = dir.path().join(READY);
    fs::create_dir_all(ready.join("keys")).unwrap();
    fs::copy(kept.join(STATE), ready.join(STATE)).unwrap();
    fs::write(ready.join("keys/data.key"), "restored").unwrap();
    fs::write(ready.join(EPOCH), "1\n").unwrap();
    let aside = dir.path().join("before-epoch-1");
    let order = [
        (dir.path(), aside.as_path(), "keys"),
        (ready.as_path(), dir.path(), "keys"),
        (dir.path(), aside.as_path(), "state.db-wal"),
        (dir.path(), aside.as_path(), STATE),
        (ready.as_path(), dir.path(), STATE),
        (ready.as_path(), dir.path(), EPOCH),
    ];
    for (from, to, name) in order.into_iter().take(moves) {
        fs::create_dir_all(to).unwrap();
        fs::rename(from.join(name), to.join(name)).unwrap();
    }
    dir
}

#[tokio::test]
async fn a_restore_that_was_cut_short_is_completed_by_the_next_who_comes() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).write(create("kept")).await.unwrap();
    let kept = backup(dir.path());
    for moves in 0..=6 {
        let dir = cut_short(kept.path(), moves);
        assert!(matches!(look(dir.path()), Err(StateError::Unfinished(_))), "{moves}: nobody looks at a half");
        let store = open(dir.path());
        assert_eq!(store.revision(), Revision(1), "{moves}");
        assert_eq!(fs::read_to_string(dir.path().join("keys/data.key")).unwrap(), "restored", "{moves}");
        assert_eq!(names(&dir.path().join("before-epoch-1")), ["keys", STATE, "state.db-wal"], "{moves}");
        assert_eq!((dir.path().join(READY).exists(), read_epoch(dir.path())), (false, Some(1)), "{moves}");
    }
}

#[tokio::test]
async fn a_restore_that_never_came_to_its_rename_leaves_nothing() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(open(dir.path()));
    let kept = backup(dir.path());
    // Given up: the database is no database.
    let begun = Restore::begin(to.path(), &[], false).unwrap();
    fs::write(begun.place().join(STATE), "damaged, and longer than nothing at all").unwrap();
    begun.finish().unwrap_err();
    assert_eq!(names(to.path()), ["lock"]);
    // Killed: its remains go with the next who takes the directory.
    fs::create_dir(to.path().join(NEW)).unwrap();
    fs::copy(kept.path().join(STATE), to.path().join(NEW).join(STATE)).unwrap();
    drop(directory::take(to.path()).unwrap());
    assert_eq!(names(to.path()), ["lock"]);
}
