//! What the conformance suite cannot see: the ring from outside, and over a restore.

use std::sync::Arc;

use super::*;
use crate::Store;
use crate::object::Revision;
use crate::sqlite::Options;
use crate::sqlite::backup::{STATE, copy};
use crate::sqlite::restore::Restore;

fn add(generation: u64, version: u64) -> RingChange {
    let row = KeyRow { name: "data".into(), version, wrapped: "sealed".into(), created_ms: 7 };
    RingChange { generation, remove: Vec::new(), add: vec![row] }
}

fn open(dir: &Path) -> Arc<SqliteStore> {
    SqliteStore::open(Options::new(dir)).unwrap()
}

#[tokio::test]
async fn the_ring_is_seen_from_outside_and_no_generation_is_given_again_after_a_restore() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(look_at_ring(dir.path()), Err(StateError::Missing(_))));
    let store = open(dir.path());
    assert_eq!(look_at_ring(dir.path()).unwrap(), Ring::default());
    assert_eq!(store.change_ring(add(0, 1)).await.unwrap(), Some(1));
    assert_eq!(look_at_ring(dir.path()).unwrap(), store.ring().await.unwrap());

    let other = tempfile::tempdir().unwrap();
    let mut restore = Restore::begin(other.path(), &[], false).unwrap();
    copy(dir.path(), &restore.place().join(STATE), &mut |_, _, _| {}).unwrap();
    // Given after the copy was made: the restored ring must not give it once more.
    assert_eq!(store.change_ring(add(1, 2)).await.unwrap(), Some(2));
    restore.above(Revision(0));
    restore.finish().unwrap();
    let restored = open(other.path());
    let ring = restored.ring().await.unwrap();
    assert_eq!((ring.rows.len(), ring.generation), (1, Revision::start_of(1).0));
    assert_eq!(restored.change_ring(add(1, 2)).await.unwrap(), None);
    assert_eq!(restored.change_ring(add(ring.generation, 2)).await.unwrap(), Some(ring.generation + 1));
    store.close().await;
    restored.close().await;
}
