//! The newest state in memory, the ring of recent changes, and the fan-out to watchers.
//!
//! Invariants: the writer alone publishes, in revision order, after the commit. Objects are visible before a watcher is
//! told of them; `published` rises when all queues hold the changes; only then is a change handed out. So whoever acts on
//! a change finds it in every read, and in every other watch. Joining a watch and publishing exclude each other, so a
//! watcher sees what the ring held and then what follows, without gap or duplicate. What waits for one watcher never
//! weighs more than its bound (a single change may); one that is too slow keeps nothing at all.

mod index;
mod objects;

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use mainstay_runtime::guard::Guard;
use tokio::sync::Notify;

use crate::error::StoreError;
use crate::object::{Key, Object, Revision};
use crate::operation;
use crate::sync::{AtomicU64, Mutex, Ordering, RwLock, RwLockReadGuard, lock};
use crate::watch::{Change, Replay, Scope, Watch, WatchEnd};
use crate::{ListPage, ListQuery};
use index::Index;
pub(crate) use objects::Objects;

/// The most that is taken from a watcher's queue at a time: the rest waits where it is counted.
const HANDFUL: usize = 256 << 10;

/// Bounds of what is kept in memory beside the objects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Changes in the ring.
    pub(crate) ring_changes: usize,
    /// Bytes in the ring.
    pub(crate) ring_bytes: usize,
    /// Bytes waiting for one watcher.
    pub(crate) watcher_bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    bounds: Bounds,
    objects: RwLock<Objects>,
    feed: Mutex<Feed>,
    published: AtomicU64,
    floor: AtomicU64,
    watchers: AtomicU64,
    slow: AtomicU64,
}

#[derive(Debug)]
struct Feed {
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    index: Index,
    next_id: u64,
    closed: bool,
}

/// What waits for one watcher.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    state: Mutex<WaitingState>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct WaitingState {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// It is in the list of those to be woken when the batch is published.
    touched: bool,
    /// Why nothing more comes, and up to where everything did come.
    ended: Option<(WatchEnd, Revision)>,
}

/// A watcher's place at the hub; dropping it leaves.
#[derive(Debug)]
pub(crate) struct Registration {
    hub: Arc<Hub>,
    waiting: Arc<Waiting>,
    scope: Scope,
    id: u64,
}

/// What a watcher found in its queue.
pub(crate) enum Taken {
    Changes(Vec<Arc<Change>>),
    Ended(WatchEnd),
    Nothing,
}

impl Hub {
    pub(crate) fn new(bounds: Bounds, objects: Objects, floor: Revision) -> Self {
        let published = AtomicU64::new(objects.revision().0);
        let feed = Feed { ring: VecDeque::new(), ring_bytes: 0, index: Index::default(), next_id: 0, closed: false };
        Self {
            bounds,
            objects: RwLock::new(objects),
            feed: Mutex::new(feed),
            published,
            floor: AtomicU64::new(floor.0),
            watchers: AtomicU64::new(0),
            slow: AtomicU64::new(0),
        }
    }

    pub(crate) fn objects(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.objects().get(key).cloned()
    }

    pub(crate) fn published(&self) -> Revision {
        Revision(self.published.load(Ordering::Acquire))
    }

    pub(crate) fn floor(&self) -> Revision {
        Revision(self.floor.load(Ordering::Acquire))
    }

    pub(crate) fn raise_floor(&self, floor: Revision) {
        self.floor.fetch_max(floor.0, Ordering::AcqRel);
    }

    /// Watchers there are, and those that were ended because they were slow.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.watchers.load(Ordering::Relaxed), self.slow.load(Ordering::Relaxed))
    }

    /// Makes committed changes visible: to readers, then to watchers.
    pub(crate) fn publish(&self, changes: &[Arc<Change>]) {
        let Some(last) = changes.last() else { return };
        let mut feed = lock(&self.feed);
        {
            let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                objects.apply(change);
            }
        }
        let mut touched = Vec::new();
        for change in changes {
            feed.remember(change, self.bounds);
            feed.index.visit(&change.object.key, |waiting| self.offer(waiting, change, &mut touched));
        }
        self.published.store(last.revision().0, Ordering::Release);
        for waiting in touched {
            lock(&waiting.state).touched = false;
            waiting.wake.notify_one();
        }
    }

    fn offer(&self, waiting: &Arc<Waiting>, change: &Arc<Change>, touched: &mut Vec<Arc<Waiting>>) {
        let mut state = lock(&waiting.state);
        if state.ended.is_some() {
            return;
        }
        let weight = change.weight();
        let first = state.changes.front().map(|first| first.revision());
        if let Some(first) = first.filter(|_| state.bytes + weight > self.bounds.watcher_bytes) {
            // What it did not take, it gets when it resumes. Kept for it, that would stay for as long as it does not read.
            state.ended = Some((WatchEnd::Slow, Revision(first.0 - 1)));
            state.changes = VecDeque::new();
            state.bytes = 0;
            self.slow.fetch_add(1, Ordering::Relaxed);
        } else {
            state.bytes += weight;
            state.changes.push_back(Arc::clone(change));
        }
        if !std::mem::replace(&mut state.touched, true) {
            touched.push(Arc::clone(waiting));
        }
    }

    /// A place in the fan-out for a watcher that has everything up to `after`; `None` when the ring no longer holds all
    /// that came since, or when that is so much that the watcher would be too slow before it began: it has to read the
    /// first part from history.
    pub(crate) fn join(self: &Arc<Self>, scope: &Scope, after: Revision) -> Option<Registration> {
        let mut feed = lock(&self.feed);
        let published = self.published();
        let oldest = feed.ring.front().map_or(published.0 + 1, |change| change.revision().0);
        if after.0 + 1 < oldest {
            return None;
        }
        let missed = feed.ring.partition_point(|change| change.revision() <= after);
        let (mut changes, mut bytes) = (VecDeque::new(), 0);
        for change in feed.ring.range(missed..).filter(|change| scope.matches(&change.object.key)) {
            bytes += change.weight();
            if !changes.is_empty() && bytes > self.bounds.watcher_bytes / 2 {
                return None;
            }
            changes.push_back(Arc::clone(change));
        }
        let ended = feed.closed.then_some((WatchEnd::Closed, published));
        let state = Mutex::new(WaitingState { changes, bytes, touched: false, ended });
        let waiting = Arc::new(Waiting { state, wake: Notify::new() });
        let id = feed.next_id;
        feed.next_id += 1;
        feed.index.insert(scope, id, Arc::clone(&waiting));
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Some(Registration { hub: Arc::clone(self), waiting, scope: scope.clone(), id })
    }

    /// A page of a list, when memory holds it; `None` when it has to be read from the database.
    ///
    /// # Errors
    /// [`StoreError::Future`] and [`StoreError::Expired`], when the snapshot is not between the floor and the newest.
    pub(crate) fn list(&self, query: &ListQuery) -> Result<Option<ListPage>, StoreError> {
        let objects = self.objects();
        let current = objects.revision();
        let revision = query.at.unwrap_or(current);
        if revision > current {
            return Err(StoreError::Future { asked: revision, current });
        }
        let floor = self.floor();
        if revision < floor {
            return Err(StoreError::Expired { asked: revision, floor });
        }
        if operation::on_disk(&query.scope.resource) {
            return Ok(None);
        }
        if revision < current && !objects.unchanged_since(&query.scope.resource, revision) {
            return Ok(None);
        }
        let limit = query.limit.unwrap_or(usize::MAX);
        let (items, remaining) = objects.page(&query.scope, query.after.as_ref(), limit);
        Ok(Some(ListPage { revision, items, more: remaining > 0, remaining: Some(remaining) }))
    }

    /// A watch from a revision on.
    ///
    /// # Errors
    /// [`StoreError::Future`] and [`StoreError::Expired`], when the revision is not between the floor and the newest.
    pub(crate) fn watch(
        self: &Arc<Self>,
        history: Arc<dyn Replay>,
        scope: Scope,
        after: Revision,
    ) -> Result<Watch, StoreError> {
        let (current, floor) = (self.published(), self.floor());
        let after = if Guard::Resume.holds() { after } else { current };
        if after > current && after > self.objects().revision() {
            Err(StoreError::Future { asked: after, current })
        } else if after < floor && Guard::Floor.holds() {
            Err(StoreError::Expired { asked: after, floor })
        } else {
            Ok(Watch::new(Arc::clone(self), history, scope, after))
        }
    }

    /// Another state, which the changes since do not lead to: all watches end as expired.
    pub(crate) fn restart(&self, objects: Objects, floor: Revision) {
        let mut feed = lock(&self.feed);
        let (published, newest) = (self.published(), objects.revision());
        (feed.ring, feed.ring_bytes) = (VecDeque::new(), 0);
        // First: nobody may resume from what is no more.
        self.raise_floor(floor);
        *self.objects.write().unwrap_or_else(PoisonError::into_inner) = objects;
        self.published.store(newest.0, Ordering::Release);
        feed.index.visit_all(|waiting| {
            lock(&waiting.state).ended.get_or_insert((WatchEnd::Expired, published));
            waiting.wake.notify_one();
        });
    }

    /// Ends all watches, after what they have been given.
    pub(crate) fn close(&self) {
        let mut feed = lock(&self.feed);
        feed.closed = true;
        let published = self.published();
        feed.index.visit_all(|waiting| {
            lock(&waiting.state).ended.get_or_insert((WatchEnd::Closed, published));
            waiting.wake.notify_one();
        });
    }
}

impl Feed {
    fn remember(&mut self, change: &Arc<Change>, bounds: Bounds) {
        self.ring_bytes += change.weight();
        self.ring.push_back(Arc::clone(change));
        while self.ring.len() > bounds.ring_changes || self.ring_bytes > bounds.ring_bytes {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes -= oldest.weight();
        }
    }
}

impl Registration {
    /// The first of what is published of the queue.
    pub(crate) fn take(&self) -> Taken {
        let mut state = lock(&self.waiting.state);
        let published = self.hub.published();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < HANDFUL
            && let Some(change) = state.changes.pop_front_if(|change| change.revision() <= published)
        {
            bytes += change.weight();
            taken.push(change);
        }
        state.bytes -= bytes;
        if !taken.is_empty() {
            return Taken::Changes(taken);
        }
        match state.ended {
            Some((end, _)) if state.changes.is_empty() => Taken::Ended(end),
            _ => Taken::Nothing,
        }
    }

    pub(crate) async fn wait(&self) {
        self.waiting.wake.notified().await;
    }

    /// `published` is read first: what it covers is in the queue by then, or has been handed out.
    pub(crate) fn progress(&self, hub: &Hub) -> Revision {
        let published = hub.published();
        let state = lock(&self.waiting.state);
        match (state.changes.front(), state.ended) {
            (Some(first), _) => Revision(first.revision().0 - 1),
            (None, Some((_, complete))) => complete,
            (None, None) => published,
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.hub.feed).index.remove(&self.scope, self.id);
        self.hub.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod models;
