//! A disk that is full, and one that cannot sync.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mainstay_store::operation::{Claim, Queue as _, Renewal, State, StepRow, StepState};
use mainstay_store::{ListQuery, Options, Revision, Scope, SqliteStore, Store, StoreError};
use tokio::time::{Instant, timeout};

use super::child;
use super::operations::{LEASE, claim, end, enqueue, queued};
use super::support::{append, create, key, message, open};

/// Writes until the disk is full; gives how many writes succeeded.
async fn fill(store: &SqliteStore) -> u64 {
    for turn in 1..100_000 {
        let name = format!("{turn}-{}", "x".repeat(400));
        match store.write(create(&key("fill", &name), &"y".repeat(2_000))).await {
            Ok(object) => assert_eq!(object.revision.0, turn),
            Err(StoreError::Full) => return turn - 1,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("never full");
}

/// Reads work, writes are refused, and nothing of a refused write is there.
async fn is_read_only(store: &SqliteStore, written: u64) {
    assert!(matches!(store.ready(), Err(StoreError::Full)), "{:?}", store.ready());
    let query = ListQuery { scope: Scope::resource("mainstay.dev/sessions"), limit: None, at: None, after: None };
    assert_eq!(store.list(query).await.unwrap().items.len() as u64, written);
    assert_eq!(store.revision(), Revision(written));
    let appended = store.append(append("s", vec![message("a", &"z".repeat(100_000))])).await;
    assert!(matches!(appended, Err(StoreError::Full)));
    assert_eq!(store.messages("s", 0, 1).await.unwrap().last, 0);
}

#[tokio::test]
async fn a_bounded_database_refuses_writes_and_serves_reads() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options { max_pages: Some(150), ..Options::new(dir.path()) }).unwrap();
    let written = fill(&store).await;
    is_read_only(&store, written).await;
    store.close().await;
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.stats().objects, written);
    store.write(create(&key("after", "a"), "x")).await.unwrap();
}

/// Takes all the room that is left.
fn stuff(file: &Path) {
    let mut file = std::fs::File::create(file).unwrap();
    while file.write_all(&[0; 4_096]).is_ok() {}
}

/// A store that was closed well has given its log back; what opening takes of it is there all the same.
async fn reopens_on_a_full_disk(data: &Path, stuffing: &Path, written: u64) {
    // The log goes with the last connection, if that is the writer's.
    drop(open(data));
    assert!(!data.join("state.db-wal").exists());
    stuff(stuffing);
    let store = open(data);
    assert_eq!((store.revision().0, store.stats().objects), (written, written));
    // The last corners are used up, also in the log; so what is left is what a kill leaves.
    let mut raised = 0;
    while let Ok(fence) = store.raise("fence").await {
        raised += 1;
        assert!(fence == raised && fence < 1_000);
    }
    assert!(matches!(store.ready(), Err(StoreError::Full)));
    assert_eq!(store.messages("s", 0, 1).await.unwrap().last, 0);
    drop(store);
    let store = open(data);
    assert_eq!((store.revision().0, store.stats().objects), (written, written));
    assert!(matches!(store.raise("fence").await, Err(StoreError::Full)));
    std::fs::remove_file(stuffing).unwrap();
    let next = async {
        loop {
            match store.raise("fence").await {
                Ok(fence) => return fence,
                Err(StoreError::Full) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(20), next).await.unwrap(), raised + 1);
    store.close().await;
}

/// In the child, which has mounts of its own: fills a small file system, and makes room again.
#[tokio::test]
async fn on_a_small_file_system() {
    let Some(dir) = child::dir() else { return };
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&dir).output().unwrap();
    assert!(mount.status.success(), "{mount:?}");
    let (data, stuffing) = (dir.join("data"), dir.join("stuffing"));
    let store = SqliteStore::open(Options { checkpoint_pages: 100, ..Options::new(&data) }).unwrap();
    stuff(&stuffing);
    let written = fill(&store).await;
    is_read_only(&store, written).await;
    std::fs::remove_file(stuffing).unwrap();
    let recovered = async {
        while store.ready().is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), recovered).await.expect("ready again by itself");
    let object = store.write(create(&key("after", "a"), "x")).await.unwrap();
    assert_eq!(object.revision.0, written + 1);
    store.close().await;
    drop(store);
    reopens_on_a_full_disk(&data, &dir.join("stuffing"), written + 1).await;
    println!("ack recovered");
}

#[test]
fn a_full_disk_makes_the_store_read_only_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let child = child::apart("disk::on_a_small_file_system", dir.path()).spawn().unwrap();
    let (lines, errors, status) = child::finish(child);
    assert!(
        status.success() && lines == ["recovered"],
        "this test needs root, or user namespaces for ordinary users, to mount a small file system\n{errors}"
    );
}

/// In the child, which has mounts of its own: a queue on a file system that is full, and has room again.
#[tokio::test]
async fn the_queue_on_a_small_file_system() {
    let Some(dir) = child::dir() else { return };
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&dir).output().unwrap();
    assert!(mount.status.success(), "{mount:?}");
    let store = open(&dir.join("data"));
    for name in ["a", "b"] {
        enqueue(&store, name, queued()).await;
    }
    let [a] = &claim(&store, 1, 0).await.claimed[..] else { panic!() };
    stuff(&dir.join("stuffing"));
    while store.raise("corners").await.is_ok() {}
    let step = StepRow { step: "s".into(), state: StepState::Done, attempt: 0, output: "null".into() };
    for _ in 0..2 {
        let claimed = store.claim(Claim { limit: 1, per_lane: 9, lease: LEASE, now_ms: 0 }).await;
        assert!(matches!(claimed, Err(StoreError::Full)), "{claimed:?}");
        let settled = store.settle(&a.attempt, end(a, State::Succeeded)).await;
        assert!(matches!(settled, Err(StoreError::Full)), "{settled:?}");
        let entered = store.journal(&a.attempt, step.clone()).await;
        assert!(matches!(entered, Err(StoreError::Full)), "{entered:?}");
    }
    let standings = store.operations(vec!["a".into(), "b".into()]).await.unwrap();
    let [Some(first), Some(second)] = &standings[..] else { panic!("{standings:?}") };
    assert_eq!((first.row.state, first.steps.len(), second.row.attempt), (State::Running, 0, 0));
    // Held all the same: a lease needs no disk.
    assert_eq!(store.renew(vec![a.attempt.clone()], LEASE).await.unwrap(), [Renewal::Held]);
    std::fs::remove_file(dir.join("stuffing")).unwrap();
    let recovered = async {
        while store.ready().is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), recovered).await.expect("ready again by itself");
    store.journal(&a.attempt, step).await.unwrap();
    store.settle(&a.attempt, end(a, State::Succeeded)).await.unwrap();
    let [b] = &claim(&store, 9, 0).await.claimed[..] else { panic!() };
    assert_eq!((&*b.attempt.id, b.attempt.number), ("b", 1));
    println!("ack recovered");
}

#[test]
fn on_a_full_disk_the_queue_stands_still_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let child = child::apart("disk::the_queue_on_a_small_file_system", dir.path()).spawn().unwrap();
    let (lines, errors, status) = child::finish(child);
    assert!(status.success() && lines == ["recovered"], "{errors}");
}

/// Makes syncs fail as soon as the file that is named in the environment exists.
const SYNC_FAILS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int failing(void) {
    const char *trigger = getenv("MAINSTAY_TEST_SYNC_FAILS");
    if (!trigger || access(trigger, F_OK) != 0) return 0;
    errno = EIO;
    return 1;
}
int fsync(int fd) { return failing() ? -1 : ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { return failing() ? -1 : ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"#;

/// In the child: writes, then the disk fails, then writes again.
#[tokio::test]
async fn on_a_failing_disk() {
    let Some(dir) = child::dir() else { return };
    let store = open(&dir.join("data"));
    for turn in 0..20 {
        println!("ack {}", store.write(create(&key("a", &turn.to_string()), "x")).await.unwrap().revision);
    }
    std::fs::write(dir.join("trigger"), "").unwrap();
    let refused = store.write(create(&key("a", "lost"), "x")).await;
    println!("ack after the failure: {refused:?}");
}

#[tokio::test]
async fn a_failed_sync_stops_the_process_and_acknowledges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let library = child::library(SYNC_FAILS, dir.path());
    let began = Instant::now();
    let mut command = child::command("disk::on_a_failing_disk", dir.path());
    command.env("LD_PRELOAD", library).env("MAINSTAY_TEST_SYNC_FAILS", dir.path().join("trigger"));
    let (lines, errors, status) = child::finish(command.spawn().unwrap());
    assert_eq!(status.signal(), Some(6), "{status}\n{lines:?}\n{errors}");
    assert!(errors.contains("mainstay: fatal: the store failed and the process stops"), "{errors}");
    assert_eq!(lines, (1..=20).map(|revision| revision.to_string()).collect::<Vec<_>>());
    assert!(began.elapsed() < Duration::from_secs(20));
    let store = open(&dir.path().join("data"));
    assert!((20..=21).contains(&store.revision().0), "{}", store.revision());
    store.write(create(&key("b", "after"), "x")).await.unwrap();
}
