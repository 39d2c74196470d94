//! Keeps the compiled roles, bindings and Pods at the store's newest revision.
//!
//! A decision never uses older data than the newest revision at its beginning: so what was acknowledged before a
//! request came is in force for it. When nothing was written since the last decision, that costs two atomic loads;
//! otherwise the watches' queues are emptied without waiting, as the store fills them before it raises its revision.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use futures::FutureExt as _;
use mainstay_store::{Change, ChangeKind, ListQuery, Object, Revision, Scope, Store, StoreError, Watch};

use super::index::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Index, ROLE_BINDINGS, ROLES};
use super::node::{PODS, Pods};

const WATCHED: [&str; 5] = [ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS, PODS];

/// What decisions are made from.
#[derive(Debug, Default)]
pub(super) struct Data {
    pub(super) index: Index,
    pub(super) pods: Pods,
}

/// The data, and the watches that keep it.
pub(super) struct Feed {
    store: Arc<dyn Store>,
    data: RwLock<Data>,
    /// The data holds every change up to here.
    seen: AtomicU64,
    /// Empty until the first decision, and after a watch ended.
    watches: Mutex<Vec<Watch>>,
    loading: tokio::sync::Mutex<()>,
}

impl Feed {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let (data, watches) = (RwLock::default(), Mutex::default());
        Self { store, data, seen: AtomicU64::new(0), watches, loading: tokio::sync::Mutex::default() }
    }

    /// The data at the newest revision, or newer.
    pub(super) async fn current(&self) -> Result<RwLockReadGuard<'_, Data>, StoreError> {
        let target = self.store.revision();
        if !self.has_seen(target) && !self.drain(target) {
            self.load(target).await?;
        }
        Ok(self.data.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn has_seen(&self, target: Revision) -> bool {
        // 0 says that nothing was loaded yet.
        let seen = self.seen.load(Ordering::Acquire);
        seen > 0 && seen >= target.0
    }

    /// Takes what the watches hold; false when that is not everything up to `target`.
    fn drain(&self, target: Revision) -> bool {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_seen(target) {
            return true;
        }
        if watches.is_empty() {
            return false;
        }
        let mut changes = Vec::new();
        for watch in watches.iter_mut() {
            // Without Tokio's budget, which could make a full queue look empty.
            while let Some(next) = tokio::task::unconstrained(watch.next()).now_or_never() {
                let Ok(more) = next else {
                    watches.clear();
                    return false;
                };
                changes.extend(more);
            }
            if watch.progress() < target {
                watches.clear();
                return false;
            }
        }
        if !changes.is_empty() {
            changes.sort_by_key(|change| change.revision());
            let mut data = self.data.write().unwrap_or_else(PoisonError::into_inner);
            for change in &changes {
                data.apply(change);
            }
        }
        self.seen.fetch_max(target.0, Ordering::AcqRel);
        true
    }

    /// Reads everything anew.
    async fn load(&self, target: Revision) -> Result<(), StoreError> {
        let _one_at_a_time = self.loading.lock().await;
        if self.has_seen(target) || self.drain(target) {
            return Ok(());
        }
        let mut fresh = Data::default();
        let mut watches = Vec::with_capacity(WATCHED.len());
        let mut complete = None;
        for resource in WATCHED {
            let scope = Scope { resource: resource.into(), namespace: None, name: None };
            let query = ListQuery { scope: scope.clone(), limit: None, at: None, after: None };
            let page = self.store.list(query).await?;
            page.items.iter().for_each(|object| fresh.put(object));
            complete = complete.or(Some(page.revision));
            watches.push(self.store.watch(scope, page.revision).await?);
        }
        let mut held = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut data = self.data.write().unwrap_or_else(PoisonError::into_inner);
        *data = fresh;
        *held = watches;
        let complete = complete.map_or(0, |revision| revision.0);
        self.seen.store(complete, Ordering::Release);
        Ok(())
    }
}

impl Data {
    fn apply(&mut self, change: &Change) {
        match change.kind {
            ChangeKind::Created | ChangeKind::Updated => self.put(&change.object),
            ChangeKind::Deleted if &*change.object.key.resource == PODS => self.pods.remove(&change.object),
            ChangeKind::Deleted => self.index.remove(&change.object),
        }
    }

    fn put(&mut self, object: &Object) {
        if &*object.key.resource == PODS { self.pods.put(object) } else { self.index.put(object) }
    }
}
