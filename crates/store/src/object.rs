//! Objects, their keys and revisions, and writes to them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::operation::Queued;

/// The largest object, in bytes of its JSON.
pub const MAX_OBJECT: usize = 1_572_864;

/// A point in the store's history. Revisions are given in commit order, without gaps, and never reused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// Its epoch: what the revisions of a state that was restored are told by from those that were given before. The first
    /// is 0; a watch of an earlier one is below the floor.
    pub const fn epoch(self) -> u64 {
        self.0 >> EPOCH_BITS
    }

    /// What an epoch's revisions come after.
    pub const fn start_of(epoch: u64) -> Self {
        Self(epoch << EPOCH_BITS)
    }
}

/// An epoch has 2^32 revisions; there can be 2^31 epochs.
const EPOCH_BITS: u32 = 32;

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which object: resource, namespace (empty for cluster-scoped) and name. Ordered in that order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `GROUP/PLURAL`, for instance `mainstay.dev/sessions`; `/pods` in the core group.
    pub resource: Arc<str>,
    /// Namespace; empty for a cluster-scoped object.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its parts.
    pub fn new(resource: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
    }
}

/// What the store keeps beside an object's bytes, so that selectors and look-ups need not parse them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// metadata.uid
    pub uid: Arc<str>,
    /// metadata.labels, sorted by key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// The kind's selectable fields (field selectors), sorted by path; `metadata.name` and `metadata.namespace` are in the key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(Arc<str>, Arc<str>)>,
    /// The uids in metadata.ownerReferences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Arc<str>>,
}

/// An object at one revision. Immutable and shared: a list, a get and all watches hand out the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Which object.
    pub key: Key,
    /// The revision that wrote it; its JSON holds the same as `metadata.resourceVersion`.
    pub revision: Revision,
    /// Selectable parts.
    pub meta: Arc<Meta>,
    /// The object as JSON, as it goes to clients.
    pub body: Bytes,
}

/// An object about to be written: JSON cut at the place where its revision belongs.
///
/// The stored bytes are `head`, the revision in decimal, `tail`; so the writer need not parse JSON to stamp the revision
/// that only it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Up to and including the opening quote of `metadata.resourceVersion`.
    pub head: Bytes,
    /// From its closing quote.
    pub tail: Bytes,
    /// Selectable parts.
    pub meta: Arc<Meta>,
    /// What the queue has to know of it: the row of an object of resource [`OPERATIONS`](crate::operation::OPERATIONS)
    /// follows it in the same transaction. Of other objects it says nothing, and an operation's status needs none.
    pub queued: Option<Arc<Queued>>,
}

impl Draft {
    /// The finished bytes at `revision`.
    pub fn finish(&self, revision: Revision) -> Bytes {
        let mut body = Vec::with_capacity(self.head.len() + self.tail.len() + 20);
        body.extend_from_slice(&self.head);
        body.extend_from_slice(revision.0.to_string().as_bytes());
        body.extend_from_slice(&self.tail);
        body.into()
    }

    /// Bytes of the draft, without the revision.
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Whether the draft holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Another object as it must be for a write to hold: what the writer concluded from it is then still true.
///
/// It is checked in the write's own transaction. So nothing is ever created under an object that has changed, or gone,
/// since its creator looked at it, whatever becomes of the creator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requires {
    /// Which object.
    pub key: Key,
    /// The revision that it must still be at.
    pub revision: Revision,
}

/// One compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The key must be free.
    Create {
        /// Which object.
        key: Key,
        /// Its content.
        draft: Draft,
        /// What must hold besides, such as the namespace that it is to live in.
        requires: Option<Requires>,
    },
    /// The object must be at revision `expected`.
    Update {
        /// Which object.
        key: Key,
        /// Its new content.
        draft: Draft,
        /// The revision that the new content was made from.
        expected: Revision,
    },
    /// The object must be at revision `expected`; the deletion takes a revision of its own.
    Delete {
        /// Which object.
        key: Key,
        /// Its last state, as watchers see it in the DELETED event, with the deletion's revision.
        draft: Draft,
        /// The revision to delete.
        expected: Revision,
    },
}

impl Write {
    /// The key written to.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Create { key, .. } | Self::Update { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// What must hold besides.
    pub const fn requires(&self) -> Option<&Requires> {
        match self {
            Self::Create { requires, .. } => requires.as_ref(),
            Self::Update { .. } | Self::Delete { .. } => None,
        }
    }

    /// The content.
    pub const fn draft(&self) -> &Draft {
        match self {
            Self::Create { draft, .. } | Self::Update { draft, .. } | Self::Delete { draft, .. } => draft,
        }
    }
}
