//! What a watch has shown so far: tells new generations, deletions and vanished objects from mere changes. Pure.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::queue::{Version, Wake};
use super::watch::Key;

/// One thing that a watch showed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sighting {
    pub(crate) key: Key,
    pub(crate) wake: Wake,
    pub(crate) version: Option<Version>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    uid: Option<String>,
    generation: Option<i64>,
    deleting: bool,
    version: Option<String>,
}

/// Everything that one watch has shown.
#[derive(Debug, Default)]
pub(crate) struct Index {
    seen: HashMap<Key, Seen>,
    /// During a list: the keys that it has not shown yet.
    missing: Option<HashSet<Key>>,
}

impl Index {
    /// A full list begins.
    pub(crate) fn begin(&mut self) {
        self.missing = Some(self.seen.keys().cloned().collect());
    }

    /// A full list ends: what it did not show was deleted meanwhile.
    pub(crate) fn end(&mut self) -> Vec<Sighting> {
        let missing = self.missing.take().unwrap_or_default();
        for key in &missing {
            self.seen.remove(key);
        }
        missing.into_iter().map(|key| Sighting { key, wake: Wake::Urgent, version: None }).collect()
    }

    /// An object was shown; `None` when nothing is new about it.
    pub(crate) fn apply(&mut self, meta: &ObjectMeta) -> Option<Sighting> {
        let key = Key::of(meta);
        let now = Seen {
            uid: meta.uid.clone(),
            generation: meta.generation,
            deleting: meta.deletion_timestamp.is_some(),
            version: meta.resource_version.clone(),
        };
        if let Some(missing) = &mut self.missing {
            missing.remove(&key);
        }
        let before = self.seen.insert(key.clone(), now.clone());
        if before.as_ref() == Some(&now) {
            return None;
        }
        let only_changed = before.is_some_and(|before| {
            before.uid == now.uid && before.generation == now.generation && before.deleting == now.deleting
        });
        let wake = if only_changed { Wake::Change } else { Wake::Urgent };
        Some(Sighting { key, wake, version: version_of(meta) })
    }

    /// An object was deleted.
    pub(crate) fn delete(&mut self, meta: &ObjectMeta) -> Sighting {
        let key = Key::of(meta);
        self.seen.remove(&key);
        Sighting { key, wake: Wake::Urgent, version: version_of(meta) }
    }
}

pub(crate) fn version_of(meta: &ObjectMeta) -> Option<Version> {
    meta.resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(name: &str, uid: &str, generation: i64, version: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()),
            generation: Some(generation),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn only_new_generations_objects_and_deletions_are_urgent() {
        let mut index = Index::default();
        let mut shown = |meta: &ObjectMeta| index.apply(meta).map(|sighting| sighting.wake);
        assert_eq!(shown(&meta("a", "1", 1, "1")), Some(Wake::Urgent), "new");
        assert_eq!(shown(&meta("a", "1", 1, "1")), None, "shown again by a list");
        assert_eq!(shown(&meta("a", "1", 1, "2")), Some(Wake::Change), "status");
        assert_eq!(shown(&meta("a", "1", 2, "3")), Some(Wake::Urgent), "generation");
        assert_eq!(shown(&meta("a", "2", 2, "4")), Some(Wake::Urgent), "made anew");
    }

    /// R41: a deletion during a gap in the watch is noticed by the next list.
    #[test]
    fn what_a_list_does_not_show_was_deleted() {
        let mut index = Index::default();
        index.apply(&meta("a", "1", 1, "1"));
        index.apply(&meta("b", "2", 1, "2"));
        index.begin();
        assert_eq!(index.apply(&meta("b", "2", 1, "2")), None);
        let gone = index.end();
        assert_eq!(gone.iter().map(|sighting| sighting.key.name.as_str()).collect::<Vec<_>>(), ["a"]);
        index.begin();
        assert_eq!(index.end().len(), 1, "b");
    }
}
