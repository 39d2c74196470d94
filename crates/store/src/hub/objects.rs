//! All current objects but operations, in key order. Resource and namespace strings are shared by all objects that have them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::object::{Key, Object, Revision};
use crate::operation;
use crate::watch::{Change, ChangeKind, Scope};

type Names = BTreeMap<Arc<str>, Arc<Object>>;

/// The state at one revision.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    resources: BTreeMap<Arc<str>, Resource>,
    revision: Revision,
    count: u64,
}

#[derive(Debug, Default)]
struct Resource {
    namespaces: BTreeMap<Arc<str>, Names>,
    /// The newest change to any object of the resource, since the store was opened.
    changed: Revision,
}

impl Objects {
    /// No objects, at a revision.
    pub(crate) fn at(revision: Revision) -> Self {
        Self { revision, ..Self::default() }
    }

    pub(crate) const fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Whether the resource's objects are still those of an older snapshot.
    pub(crate) fn unchanged_since(&self, resource: &str, snapshot: Revision) -> bool {
        self.resources.get(resource).is_some_and(|resource| resource.changed <= snapshot)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.resources.get(&key.resource)?.namespaces.get(&key.namespace)?.get(&key.name)
    }

    /// The same key, sharing its strings with the objects that are there.
    pub(crate) fn intern(&self, key: &Key) -> Key {
        let resource = self.resources.get_key_value(&key.resource);
        let namespace = resource.and_then(|(_, resource)| resource.namespaces.get_key_value(&key.namespace));
        Key {
            resource: resource.map_or(&key.resource, |(shared, _)| shared).clone(),
            namespace: namespace.map_or(&key.namespace, |(shared, _)| shared).clone(),
            name: key.name.clone(),
        }
    }

    /// Puts an object that was loaded from disk.
    pub(crate) fn load(&mut self, object: Arc<Object>) {
        let resource = self.resources.entry(object.key.resource.clone()).or_default();
        resource.changed = self.revision;
        let names = resource.namespaces.entry(object.key.namespace.clone()).or_default();
        names.insert(object.key.name.clone(), object);
        self.count += 1;
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        let object = &change.object;
        let resource = self.resources.entry(object.key.resource.clone()).or_default();
        resource.changed = object.revision;
        self.revision = object.revision;
        if operation::on_disk(&object.key.resource) {
            return;
        }
        if change.kind == ChangeKind::Deleted {
            if let Some(names) = resource.namespaces.get_mut(&object.key.namespace) {
                self.count -= u64::from(names.remove(&object.key.name).is_some());
                if names.is_empty() {
                    resource.namespaces.remove(&object.key.namespace);
                }
            }
            return;
        }
        let names = resource.namespaces.entry(object.key.namespace.clone()).or_default();
        let before = names.insert(object.key.name.clone(), Arc::clone(object));
        self.count += u64::from(before.is_none());
    }

    /// Up to `limit` objects of a scope after a key, in order, and how many follow.
    pub(crate) fn page(
        &self,
        scope: &Scope,
        after: Option<&(String, String)>,
        limit: usize,
    ) -> (Vec<Arc<Object>>, usize) {
        let (mut items, mut remaining) = (Vec::new(), 0);
        let Some(resource) = self.resources.get(&scope.resource) else { return (items, 0) };
        let from = match (&scope.namespace, after) {
            (Some(namespace), _) => Bound::Included(&**namespace),
            (None, Some((namespace, _))) => Bound::Included(namespace.as_str()),
            (None, None) => Bound::Unbounded,
        };
        let to = scope.namespace.as_ref().map_or(Bound::Unbounded, |namespace| Bound::Included(&**namespace));
        for (namespace, names) in resource.namespaces.range::<str, _>((from, to)) {
            let start = match after {
                Some((passed, _)) if **namespace < **passed => continue,
                Some((passed, name)) if **namespace == **passed => Bound::Excluded(name.as_str()),
                _ => Bound::Unbounded,
            };
            let room = limit - items.len();
            if let Some(name) = &scope.name {
                let passed = matches!(start, Bound::Excluded(start) if **name <= *start);
                let found = names.get(name).filter(|_| !passed);
                remaining += usize::from(found.is_some() && room == 0);
                items.extend(found.filter(|_| room > 0).cloned());
                continue;
            }
            let before = items.len();
            items.extend(
                names.range::<str, _>((start, Bound::Unbounded)).take(room).map(|(_, object)| Arc::clone(object)),
            );
            let taken = items.len() - before;
            remaining += match start {
                Bound::Unbounded => names.len() - taken,
                _ if taken < room => 0,
                _ => names.range::<str, _>((start, Bound::Unbounded)).count() - taken,
            };
        }
        (items, remaining)
    }
}
