//! Changes of a scope, as a stream.

use std::sync::Arc;

use bytes::Bytes;

use crate::object::{Object, Revision};

/// A set of keys: a resource, one namespace of it, or one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// `GROUP/PLURAL`.
    pub resource: Arc<str>,
    /// Only this namespace.
    pub namespace: Option<Arc<str>>,
    /// Only this name; with a namespace, or of a cluster-scoped resource (namespace `""`).
    pub name: Option<Arc<str>>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It came into being.
    Created,
    /// It changed.
    Updated,
    /// It is gone; the change holds its last state at the deletion's revision.
    Deleted,
}

/// One change, shared by all watchers: its bytes are made once.
#[derive(Debug)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The object after the change (its last state for a deletion).
    pub object: Arc<Object>,
    /// The object before the change; `None` for a creation. Selectors need it to see an object leave.
    pub previous: Option<Arc<Object>>,
    /// `{"type":"...","object":{...}}\n`, ready to be sent when the watcher has no selector or transformation.
    pub frame: Bytes,
}

impl Change {
    /// The change's revision.
    pub fn revision(&self) -> Revision {
        self.object.revision
    }
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The reader was slower than its bounded queue allows; resume from the last revision received.
    #[error("the watcher was too slow")]
    Slow,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// History that was still to be read has been compacted.
    #[error("the history was compacted")]
    Expired,
}
