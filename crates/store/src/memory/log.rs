//! The log of changes, and the objects that it leads to.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::StoreError;
use crate::given::Given;
use crate::hub::Objects;
use crate::object::{Key, Object, Requires, Revision, Write};
use crate::watch::{Change, ChangeKind, ReplayPage, Scope, WatchEnd};
use crate::{ListPage, ListQuery};

/// Changes that make a page of history.
const PAGE: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Revision 1 first.
    changes: Vec<Arc<Change>>,
    objects: BTreeMap<Key, Arc<Object>>,
    pub(super) floor: Revision,
}

impl Log {
    pub(super) fn newest(&self) -> Revision {
        Revision(self.changes.len() as u64)
    }

    pub(super) fn current(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    pub(super) fn after(&self, after: Revision) -> &[Arc<Change>] {
        let from = usize::try_from(after.0).unwrap_or(usize::MAX);
        self.changes.get(from..).unwrap_or_default()
    }

    fn stands(&self, required: &Requires) -> Result<(), StoreError> {
        let stands = self.current(&required.key).is_some_and(|object| object.revision == required.revision);
        if stands { Ok(()) } else { Err(StoreError::Unmet(required.key.clone())) }
    }

    /// Whether what is given for a write holds, but for its fence.
    pub(super) fn meets(&self, given: &Given, write: &Write) -> Result<(), StoreError> {
        if let Some(required) = &given.requires {
            self.stands(required)?;
        }
        let (key, Some(since)) = (write.key(), given.none_since) else { return Ok(()) };
        let is_near = |change: &Arc<Change>| {
            let other = &change.object.key;
            change.kind == ChangeKind::Created && other.resource == key.resource && other.namespace == key.namespace
        };
        if since >= self.floor && !self.after(since).iter().any(is_near) {
            return Ok(());
        }
        Err(StoreError::Unmet(given.requires.as_ref().map_or_else(|| key.clone(), |required| required.key.clone())))
    }

    /// What a write would meet.
    pub(super) fn judge(&self, write: &Write) -> Result<(), StoreError> {
        if let Some(required) = write.requires() {
            self.stands(required)?;
        }
        match (write, self.current(write.key())) {
            (Write::Create { .. }, Some(there)) => Err(StoreError::Exists(Arc::clone(there))),
            (Write::Update { .. } | Write::Delete { .. }, None) => Err(StoreError::Missing),
            (Write::Update { expected, .. } | Write::Delete { expected, .. }, Some(there))
                if *expected != there.revision =>
            {
                Err(StoreError::Conflict(Arc::clone(there)))
            }
            _ => Ok(()),
        }
    }

    /// Makes a write that was judged.
    pub(super) fn make(&mut self, write: &Write) -> Arc<Change> {
        let kind = match write {
            Write::Create { .. } => ChangeKind::Created,
            Write::Update { .. } => ChangeKind::Updated,
            Write::Delete { .. } => ChangeKind::Deleted,
        };
        let (key, revision) = (write.key().clone(), Revision(self.newest().0 + 1));
        let previous = self.objects.get(&key).cloned();
        let change = Arc::new(Change::stamp(kind, key.clone(), write.draft(), revision, previous));
        match kind {
            ChangeKind::Deleted => drop(self.objects.remove(&key)),
            ChangeKind::Created | ChangeKind::Updated => drop(self.objects.insert(key, Arc::clone(&change.object))),
        }
        self.changes.push(Arc::clone(&change));
        change
    }

    /// The newest change never was.
    pub(super) fn forget(&mut self) {
        if let Some(change) = self.changes.pop() {
            let key = change.object.key.clone();
            match &change.previous {
                Some(previous) => drop(self.objects.insert(key, Arc::clone(previous))),
                None => drop(self.objects.remove(&key)),
            }
        }
    }

    /// An object as it was.
    pub(super) fn at(&self, key: &Key, at: Revision) -> Option<Arc<Object>> {
        let newest = self.upto(at).iter().rev().find(|change| change.object.key == *key)?;
        (newest.kind != ChangeKind::Deleted).then(|| Arc::clone(&newest.object))
    }

    fn upto(&self, at: Revision) -> &[Arc<Change>] {
        let to = usize::try_from(at.0).unwrap_or(usize::MAX).min(self.changes.len());
        &self.changes[..to]
    }

    /// A page of the objects as they were.
    pub(super) fn list(&self, query: &ListQuery, at: Revision) -> Result<ListPage, StoreError> {
        if at < self.floor {
            return Err(StoreError::Expired { asked: at, floor: self.floor });
        }
        let mut there = BTreeMap::new();
        for change in self.upto(at).iter().filter(|change| query.scope.matches(&change.object.key)) {
            match change.kind {
                ChangeKind::Deleted => there.remove(&change.object.key),
                ChangeKind::Created | ChangeKind::Updated => there.insert(&change.object.key, &change.object),
            };
        }
        let passed = |key: &Key| {
            let after = query.after.as_ref();
            after.is_some_and(|(namespace, name)| (&*key.namespace, &*key.name) <= (namespace.as_str(), name.as_str()))
        };
        let mut rest: Vec<Arc<Object>> =
            there.into_iter().filter(|(key, _)| !passed(key)).map(|(_, object)| Arc::clone(object)).collect();
        let left = rest.split_off(rest.len().min(query.limit.unwrap_or(usize::MAX))).len();
        Ok(ListPage { revision: at, items: rest, more: left > 0, remaining: Some(left) })
    }

    /// A page of history.
    pub(super) fn page(&self, scope: &Scope, after: Revision, upto: Revision) -> Result<ReplayPage, WatchEnd> {
        if after < self.floor {
            return Err(WatchEnd::Expired);
        }
        let all = self.after(after).iter().take_while(|change| change.revision() <= upto);
        let mut changes: Vec<_> = all.filter(|change| scope.matches(&change.object.key)).take(PAGE).cloned().collect();
        let full = changes.len() == PAGE;
        changes.shrink_to_fit();
        let upto = changes.last().filter(|_| full).map_or(upto, |last| last.revision());
        Ok(ReplayPage { changes, upto })
    }

    /// All there is, for a replica that begins.
    pub(super) fn load(&self) -> Objects {
        let mut objects = Objects::at(self.newest());
        for object in self.objects.values().filter(|object| !crate::operation::on_disk(&object.key.resource)) {
            objects.load(Arc::clone(object));
        }
        objects
    }
}
