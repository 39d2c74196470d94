//! Watchers by what they watch, so that a change visits only those concerned.

use std::collections::HashMap;
use std::sync::Arc;

use super::Waiting;
use crate::object::Key;
use crate::watch::Scope;

/// Watchers by resource, then by namespace, then by name.
#[derive(Debug, Default)]
pub(super) struct Index {
    resources: HashMap<Arc<str>, Level>,
}

#[derive(Debug, Default)]
struct Level {
    /// Those that watch all of this level.
    here: Vec<(u64, Arc<Waiting>)>,
    /// The next level: of a resource its namespaces, of a namespace its names.
    below: HashMap<Arc<str>, Level>,
    /// Those that watch one name in every namespace.
    named: HashMap<Arc<str>, Level>,
}

impl Index {
    pub(super) fn insert(&mut self, scope: &Scope, id: u64, waiting: Arc<Waiting>) {
        let mut level = self.resources.entry(scope.resource.clone()).or_default();
        match (&scope.namespace, &scope.name) {
            (None, None) => {}
            (None, Some(name)) => level = level.named.entry(name.clone()).or_default(),
            (Some(namespace), name) => {
                level = level.below.entry(namespace.clone()).or_default();
                if let Some(name) = name {
                    level = level.below.entry(name.clone()).or_default();
                }
            }
        }
        level.here.push((id, waiting));
    }

    pub(super) fn remove(&mut self, scope: &Scope, id: u64) {
        let Some(resource) = self.resources.get_mut(&scope.resource) else { return };
        match (&scope.namespace, &scope.name) {
            (None, None) => resource.drop_here(id),
            (None, Some(name)) => prune(&mut resource.named, name, |level| level.drop_here(id)),
            (Some(namespace), None) => prune(&mut resource.below, namespace, |level| level.drop_here(id)),
            (Some(namespace), Some(name)) => prune(&mut resource.below, namespace, |level| {
                prune(&mut level.below, name, |level| level.drop_here(id));
            }),
        }
        if resource.is_empty() {
            self.resources.remove(&scope.resource);
        }
    }

    pub(super) fn visit(&self, key: &Key, mut tell: impl FnMut(&Arc<Waiting>)) {
        let Some(resource) = self.resources.get(&key.resource) else { return };
        let namespace = resource.below.get(&key.namespace);
        let named = resource.named.get(&key.name);
        let name = namespace.and_then(|level| level.below.get(&key.name));
        for level in [Some(resource), namespace, named, name].into_iter().flatten() {
            level.here.iter().for_each(|(_, waiting)| tell(waiting));
        }
    }

    pub(super) fn visit_all(&self, mut tell: impl FnMut(&Arc<Waiting>)) {
        let mut levels: Vec<&Level> = self.resources.values().collect();
        while let Some(level) = levels.pop() {
            level.here.iter().for_each(|(_, waiting)| tell(waiting));
            levels.extend(level.below.values().chain(level.named.values()));
        }
    }
}

impl Level {
    fn drop_here(&mut self, id: u64) {
        if let Some(place) = self.here.iter().position(|(other, _)| *other == id) {
            self.here.swap_remove(place);
        }
    }

    fn is_empty(&self) -> bool {
        self.here.is_empty() && self.below.is_empty() && self.named.is_empty()
    }
}

/// Changes one entry, and forgets it when nobody is left in it.
fn prune(levels: &mut HashMap<Arc<str>, Level>, at: &Arc<str>, change: impl FnOnce(&mut Level)) {
    if let Some(level) = levels.get_mut(at) {
        change(level);
        if level.is_empty() {
            levels.remove(at);
        }
    }
}
