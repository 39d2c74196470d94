//! What is not moved, and that nothing has changed then.

use std::fs;

use super::*;
use crate::sqlite::backup::copy;
use crate::sqlite::moved::MOVED;

const MOVING: &str = "moving-to-postgres";

/// A directory with one object.
async fn small() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    store.write(create("one", "a")).await.unwrap();
    store.close().await;
    dir
}

/// The directory is served as it was.
async fn goes_on(dir: &Path) {
    let store = sqlite(dir);
    assert_eq!(store.revision(), Revision(1));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_used_is_refused() {
    let (dir, to) = (small().await, database());
    let store = open(&to);
    store.raise("starts").await.unwrap();
    store.close().await;
    let refused = migrate(dir.path(), &to).unwrap_err();
    assert!(matches!(&refused, MigrateError::NotEmpty { found, .. } if found.contains(&"counters")), "{refused}");
    goes_on(dir.path()).await;
    // One that a server only entered is not free either: it remembers.
    let entered = database();
    open(&entered).close().await;
    let refused = migrate(dir.path(), &entered).unwrap_err();
    assert!(matches!(&refused, MigrateError::NotEmpty { found, .. } if found.contains(&"replicas")), "{refused}");
    goes_on(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_on_either_side_is_refused() {
    let (dir, to) = (small().await, database());
    let cluster = postgres::shared().unwrap();
    let newer = "CREATE SCHEMA mainstay; CREATE TABLE mainstay.schema AS SELECT 99 AS version;
        ALTER SCHEMA mainstay OWNER TO CURRENT_USER; GRANT ALL ON SCHEMA mainstay TO public;
        GRANT ALL ON mainstay.schema TO public";
    cluster.sql(&to.name, newer).unwrap();
    let refused = migrate(dir.path(), &to).unwrap_err();
    let MigrateError::Database { source: StoreError::NewerSchema { found: 99, .. }, .. } = refused else {
        panic!("{refused:?}")
    };
    goes_on(dir.path()).await;
    let state = Connection::open(dir.path().join("state.db")).unwrap();
    state.pragma_update(None, "user_version", 99).unwrap();
    drop(state);
    let refused = migrate(dir.path(), &database()).unwrap_err();
    let MigrateError::State(StateError::Store(StoreError::NewerSchema { found: 99, .. })) = refused else {
        panic!("{refused:?}")
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_without_state_or_in_use_is_refused() {
    let (dir, to) = (tempfile::tempdir().unwrap(), database());
    let nowhere = dir.path().join("none");
    let refused = migrate(&nowhere, &to).unwrap_err();
    assert!(matches!(refused, MigrateError::State(StateError::Missing(_))), "{refused}");
    assert!(!nowhere.exists(), "nothing is made where nothing is");
    let store = sqlite(dir.path());
    store.write(create("one", "a")).await.unwrap();
    let refused = migrate(dir.path(), &to).unwrap_err();
    assert!(matches!(refused, MigrateError::State(StateError::Store(StoreError::Locked { .. }))), "{refused}");
    store.close().await;
    drop(store);
    let nobody = Address::parse("postgres://me@127.0.0.1:1/db").unwrap();
    let refused = std::thread::scope(|scope| {
        let run = || Migration::begin(dir.path()).unwrap().run(&nobody, &mut |_, _, _| {});
        scope.spawn(run).join().unwrap().unwrap_err()
    });
    assert!(matches!(refused, MigrateError::Database { source: StoreError::Away(_), .. }), "{refused:?}");
    goes_on(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_moved_is_left_until_somebody_takes_it_back() {
    let (dir, to) = (small().await, database());
    migrate(dir.path(), &to).unwrap();
    let marked = fs::read_to_string(dir.path().join(MOVED)).unwrap();
    assert!(marked.starts_with(&format!("{} at 127.0.0.1\n", to.name)), "{marked}");
    let refused = SqliteStore::open(crate::Options::new(dir.path())).unwrap_err();
    assert!(matches!(refused, StoreError::Moved { settled: true, .. }), "{refused}");
    assert!(refused.to_string().contains("serve it with --database"), "{refused}");
    let refused = migrate(dir.path(), &database()).unwrap_err();
    assert!(matches!(refused, MigrateError::State(StateError::Store(StoreError::Moved { .. }))), "{refused}");
    let refused = copy(dir.path(), &dir.path().join("copy"), &mut |_, _, _| {}).unwrap_err();
    assert!(matches!(refused, StateError::Store(StoreError::Moved { .. })), "{refused}");
    fs::remove_file(dir.path().join(MOVED)).unwrap();
    goes_on(dir.path()).await;
}

/// The last step is between two places, and may end between any two of its parts.
#[tokio::test(flavor = "multi_thread")]
async fn a_last_step_that_was_cut_short_is_settled_by_repeating_it() {
    let (dir, to) = (small().await, database());
    migrate(dir.path(), &to).unwrap();
    // Committed, and not said.
    fs::rename(dir.path().join(MOVED), dir.path().join(MOVING)).unwrap();
    let refused = SqliteStore::open(crate::Options::new(dir.path())).unwrap_err();
    assert!(matches!(refused, StoreError::Moved { settled: false, .. }), "{refused}");
    assert!(refused.to_string().contains("repeat `mainstay migrate`"), "{refused}");
    // Servers may have used it since.
    let store = open(&to);
    store.write(create("one", "b")).await.unwrap();
    store.close().await;
    // To somewhere else it is not moved a second time.
    let refused = migrate(dir.path(), &database()).unwrap_err();
    assert!(matches!(refused, MigrateError::Elsewhere { .. }), "{refused}");
    assert!(migrate(dir.path(), &to).unwrap().repeated);
    assert!(dir.path().join(MOVED).exists() && !dir.path().join(MOVING).exists());
    let store = open(&to);
    assert_eq!(store.revision(), Revision(2));
    store.close().await;

    // Said to be begun, and not committed.
    let (dir, to) = (small().await, database());
    let id = Uuid::new_v4();
    fs::write(dir.path().join(MOVING), format!("{} at 127.0.0.1\n{id}\n", to.name)).unwrap();
    assert!(!migrate(dir.path(), &to).unwrap().repeated);
    assert!(dir.path().join(MOVED).exists());
}

/// A server that comes meanwhile waits, and finds everything: it never begins on what is half there.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_enters_a_database_that_is_being_filled() {
    let (dir, to) = (small().await, database());
    let waits = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%enter_2%'";
    let is_waiting = || postgres::shared().unwrap().sql(&to.name, waits).unwrap() == "1";
    let migrated = std::thread::scope(|scope| {
        let migrated = scope.spawn(|| {
            let mut entering = None;
            let mut meanwhile = |step: &str, _, _| {
                if step == "objects" && entering.is_none() {
                    let entering = entering.insert(scope.spawn(|| open(&to)));
                    while !entering.is_finished() && !is_waiting() {
                        std::thread::yield_now();
                    }
                }
            };
            Migration::begin(dir.path()).unwrap().run(&address(&to), &mut meanwhile).unwrap();
            entering.unwrap().join().unwrap()
        });
        migrated.join()
    });
    let entered = migrated.unwrap();
    assert_eq!(entered.revision(), Revision(1));
    assert!(entered.get(&Key::new("/pods", "one", "a")).await.unwrap().is_some());
    entered.close().await;
}
