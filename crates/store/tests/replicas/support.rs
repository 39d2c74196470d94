//! Replicas, writes, and the histories that watches tell.

use std::sync::Arc;
use std::time::Duration;

use mainstay_store::postgres::{Address, Options};
use mainstay_store::{ChangeKind, Draft, Key, Meta, Object, PostgresStore, Revision, Scope, Store, StoreError, Write};

pub(crate) fn open(url: &str, replica: &str) -> Arc<PostgresStore> {
    PostgresStore::open(Options::new(Address::parse(url).unwrap(), replica)).unwrap()
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("/pods", "a", name)
}

pub(crate) fn create(name: &str) -> Write {
    let meta = Arc::new(Meta { uid: name.into(), ..Meta::default() });
    let draft = Draft { head: "{\"revision\":\"".into(), tail: "\"}".into(), meta, queued: None };
    Write::Create { key: key(name), draft, requires: None }
}

/// Within a deadline that no run comes near.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), what).await.expect("it takes too long")
}

/// Writes until it is told whether it is stored. What is answered "try again" is tried again; what is in doubt is looked at
/// first, as a client would.
pub(crate) async fn stored(store: &PostgresStore, name: &str) -> Arc<Object> {
    loop {
        match store.write(create(name)).await {
            Ok(object) | Err(StoreError::Exists(object)) => return object,
            Err(StoreError::Away(_) | StoreError::Busy | StoreError::Database(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

/// Everything that was created up to a revision, in the order of its revisions.
pub(crate) async fn history(store: &PostgresStore, upto: Revision) -> Vec<(u64, String)> {
    let mut watch = store.watch(Scope::resource("/pods"), Revision(0)).await.unwrap();
    let mut seen = Vec::new();
    while watch.progress() < upto {
        for change in soon(watch.next()).await.unwrap() {
            assert_eq!(change.kind, ChangeKind::Created);
            seen.push((change.revision().0, change.object.key.name.to_string()));
        }
    }
    seen
}
