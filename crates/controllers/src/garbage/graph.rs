//! Who owns whom, as the watches have shown it. Pure.
//!
//! The graph only says whom to look at; every decision is made on live reads.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::driver::Key;

/// The owner removes its dependents before it goes.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The owner lets its dependents go before it goes.
pub(super) const ORPHAN: &str = "orphan";

/// A uid.
pub(super) type Uid = String;

/// An object, by what matters for ownership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// Its kind's place in the collector's table.
    pub(super) kind: usize,
    pub(super) key: Key,
    /// uid of each owner, and whether it waits for this object in foreground deletion.
    pub(super) owners: Vec<(Uid, bool)>,
    pub(super) deleting: bool,
    /// Being deleted, and it waits until its dependents are gone.
    pub(super) foreground: bool,
    /// Being deleted, and it waits until its dependents are let go.
    pub(super) orphaning: bool,
}

impl Node {
    fn of(kind: usize, meta: &ObjectMeta) -> Self {
        let owners = meta.owner_references.iter().flatten();
        let deleting = meta.deletion_timestamp.is_some();
        let held_by = |name: &str| deleting && meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        Self {
            kind,
            key: Key::of(meta),
            owners: owners.map(|owner| (owner.uid.clone(), owner.block_owner_deletion == Some(true))).collect(),
            deleting,
            foreground: held_by(FOREGROUND),
            orphaning: held_by(ORPHAN),
        }
    }
}

/// All objects that the watches have shown.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
    /// Per kind that is being listed: what the list has not shown yet.
    missing: HashMap<usize, HashSet<Uid>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name this one as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<(Uid, Node)> {
        let all = self.dependents.get(uid).into_iter().flatten();
        all.filter_map(|dependent| Some((dependent.clone(), self.nodes.get(dependent)?.clone()))).collect()
    }

    /// A list of this kind begins.
    pub(super) fn begin(&mut self, kind: usize) {
        let known = self.nodes.iter().filter(|(_, node)| node.kind == kind).map(|(uid, _)| uid.clone());
        let known = known.collect();
        self.missing.insert(kind, known);
    }

    /// A list of this kind ends; returns whom to look at because of what it did not show.
    pub(super) fn end(&mut self, kind: usize) -> Vec<Uid> {
        let gone = self.missing.remove(&kind).unwrap_or_default();
        gone.into_iter().flat_map(|uid| self.remove(&uid)).collect()
    }

    /// An object was shown; returns whom to look at.
    pub(super) fn upsert(&mut self, kind: usize, meta: &ObjectMeta) -> Vec<Uid> {
        let Some(uid) = meta.uid.clone() else { return Vec::new() };
        if let Some(missing) = self.missing.get_mut(&kind) {
            missing.remove(&uid);
        }
        let node = Node::of(kind, meta);
        let old = self.nodes.get(&uid);
        if old == Some(&node) {
            return Vec::new();
        }
        let mut look = Vec::new();
        for (owner, _) in old.map(|old| old.owners.clone()).unwrap_or_default() {
            if !node.owners.iter().any(|(other, _)| *other == owner) {
                look.extend(self.unlink(&uid, &owner));
            }
        }
        for (owner, _) in &node.owners {
            self.dependents.entry(owner.clone()).or_default().insert(uid.clone());
        }
        let doubtful = |owner: &Uid| self.nodes.get(owner).is_none_or(|owner| owner.foreground);
        let orphaned = !node.deleting && node.owners.iter().any(|(owner, _)| doubtful(owner));
        if orphaned || node.foreground || node.orphaning {
            look.push(uid.clone());
        }
        self.nodes.insert(uid, node);
        look
    }

    /// An object is gone; returns whom to look at.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Uid> {
        let mut look: Vec<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if let Some(node) = self.nodes.remove(uid) {
            for (owner, _) in &node.owners {
                look.extend(self.unlink(uid, owner));
            }
        }
        look
    }

    /// A dependent no longer names an owner; the owner may have waited for that.
    fn unlink(&mut self, uid: &str, owner: &Uid) -> Option<Uid> {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(uid);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
        self.nodes.get(owner).filter(|owner| owner.foreground || owner.orphaning).map(|_| owner.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn meta(uid: &str, owners: &[&str], changes: &Value) -> ObjectMeta {
        let owners: Vec<Value> = owners
            .iter()
            .map(|owner| json!({ "apiVersion": "v1", "kind": "X", "name": owner, "uid": owner, "blockOwnerDeletion": true }))
            .collect();
        let mut object = json!({ "name": uid, "uid": uid, "ownerReferences": owners });
        json_patch::merge(&mut object, changes);
        serde_json::from_value(object).unwrap()
    }

    fn none() -> Value {
        json!({})
    }

    #[test]
    fn only_objects_with_doubtful_owners_are_looked_at() {
        let mut graph = Graph::default();
        assert_eq!(graph.upsert(0, &meta("owner", &[], &none())), [""; 0]);
        assert_eq!(graph.upsert(1, &meta("a", &["owner"], &none())), [""; 0], "its owner is there");
        assert_eq!(graph.upsert(1, &meta("b", &["nobody"], &none())), ["b"]);
        assert_eq!(graph.upsert(1, &meta("b", &["nobody"], &none())), [""; 0], "nothing new");
        assert_eq!(graph.remove("owner"), ["a"]);
    }

    #[test]
    fn an_owner_in_foreground_deletion_is_looked_at_when_a_dependent_goes() {
        let mut graph = Graph::default();
        let dying = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FOREGROUND] });
        graph.upsert(0, &meta("owner", &[], &none()));
        graph.upsert(1, &meta("a", &["owner"], &none()));
        graph.upsert(1, &meta("b", &["owner"], &none()));
        assert_eq!(graph.upsert(0, &meta("owner", &[], &dying)), ["owner"]);
        assert_eq!(graph.remove("a"), ["owner"]);
        assert_eq!(graph.upsert(1, &meta("b", &[], &none())), ["owner"], "let go");
        assert_eq!(graph.dependents("owner"), []);
    }

    #[test]
    fn a_list_that_does_not_show_an_owner_concerns_its_dependents() {
        let mut graph = Graph::default();
        graph.upsert(0, &meta("owner", &[], &none()));
        graph.upsert(0, &meta("other", &[], &none()));
        graph.upsert(1, &meta("a", &["owner"], &none()));
        graph.begin(0);
        graph.upsert(0, &meta("other", &[], &none()));
        assert_eq!(graph.end(0), ["a"]);
        assert!(graph.get("other").is_some() && graph.get("owner").is_none());
    }
}
