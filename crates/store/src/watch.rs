//! Changes of a scope, as a stream.
//!
//! Invariants of a [`Watch`]: it hands out every matching change above its start exactly once, in revision order, until
//! it ends with a [`WatchEnd`]; it never skips. [`Watch::progress`] never runs ahead of what was handed out.

use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::hub::{Hub, Registration, Taken};
use crate::object::{Draft, Key, Meta, Object, Revision};

/// A set of keys: a resource, one namespace of it, or one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// `GROUP/PLURAL`.
    pub resource: Arc<str>,
    /// Only this namespace.
    pub namespace: Option<Arc<str>>,
    /// Only this name; without a namespace, in every namespace.
    pub name: Option<Arc<str>>,
}

impl Scope {
    /// All objects of a resource.
    pub fn resource(resource: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: None, name: None }
    }

    /// One object.
    pub fn object(key: &Key) -> Self {
        Self { resource: key.resource.clone(), namespace: Some(key.namespace.clone()), name: Some(key.name.clone()) }
    }

    /// All objects of a resource in a namespace.
    #[must_use]
    pub fn within(mut self, namespace: impl Into<Arc<str>>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Whether the key is in the scope.
    pub fn matches(&self, key: &Key) -> bool {
        self.resource == key.resource
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.name.as_ref().is_none_or(|name| *name == key.name)
    }
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

impl ChangeKind {
    /// The word in the `type` member of a watch event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "ADDED",
            Self::Updated => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
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

    /// A change that is being committed.
    pub(crate) fn stamp(
        kind: ChangeKind,
        key: Key,
        draft: &Draft,
        revision: Revision,
        previous: Option<Arc<Object>>,
    ) -> Self {
        let digits = revision.0.to_string();
        let (frame, body) = framed(kind, &[&draft.head, digits.as_bytes(), &draft.tail]);
        let object = Arc::new(Object { key, revision, meta: Arc::clone(&draft.meta), body });
        Self { kind, object, previous, frame }
    }

    /// A change that was read from history.
    pub(crate) fn replayed(
        kind: ChangeKind,
        (key, revision, meta): (Key, Revision, Arc<Meta>),
        body: &[u8],
        previous: Option<Arc<Object>>,
    ) -> Self {
        let (frame, body) = framed(kind, &[body]);
        Self { kind, object: Arc::new(Object { key, revision, meta, body }), previous, frame }
    }

    /// What the change counts for against the bounds of queues: what it keeps in memory, though others may share it.
    pub(crate) fn weight(&self) -> usize {
        self.frame.len() + self.previous.as_ref().map_or(0, |previous| previous.body.len()) + 64
    }
}

/// The frame, and the object's own bytes as a part of it, so that both cost one allocation.
fn framed(kind: ChangeKind, parts: &[&[u8]]) -> (Bytes, Bytes) {
    let opening = [b"{\"type\":\"".as_slice(), kind.as_str().as_bytes(), b"\",\"object\":"].concat();
    let size: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(opening.len() + size + 2);
    frame.extend_from_slice(&opening);
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame.extend_from_slice(b"}\n");
    let frame = Bytes::from(frame);
    let body = frame.slice(opening.len()..opening.len() + size);
    (frame, body)
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

/// A part of history, read back.
#[derive(Debug)]
pub(crate) struct ReplayPage {
    /// The matching changes, in order.
    pub(crate) changes: Vec<Arc<Change>>,
    /// Everything that matches up to here is in `changes`.
    pub(crate) upto: Revision,
}

/// Reads changes that have left the ring.
pub(crate) trait Replay: Send + Sync + fmt::Debug {
    /// Changes of a scope above `after` and at most at `upto`: as many as make a page.
    fn page(&self, scope: Scope, after: Revision, upto: Revision) -> BoxFuture<'static, Result<ReplayPage, WatchEnd>>;
}

/// A stream of changes. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    scope: Scope,
    hub: Arc<Hub>,
    position: Revision,
    phase: Phase,
}

enum Phase {
    /// Reading pages of history until the ring holds what follows.
    Replaying { history: Arc<dyn Replay>, reading: Option<Reading> },
    /// Fed by the hub.
    Live(Registration),
    /// Over.
    Ended(WatchEnd),
}

/// A page on its way. The mutex only makes it `Sync`: it is never locked.
type Reading = Mutex<BoxFuture<'static, Result<ReplayPage, WatchEnd>>>;

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replaying { .. } => "Replaying",
            Self::Live(_) => "Live",
            Self::Ended(_) => "Ended",
        })
    }
}

impl Watch {
    pub(crate) fn new(hub: Arc<Hub>, history: Arc<dyn Replay>, scope: Scope, after: Revision) -> Self {
        let phase = match hub.join(&scope, after) {
            Some(registration) => Phase::Live(registration),
            None => Phase::Replaying { history, reading: None },
        };
        Self { scope, hub, position: after, phase }
    }

    /// The next changes, at least one.
    ///
    /// # Errors
    /// The reason why the watch ended, after everything before has been handed out; then again the same.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped, and a page that is being read goes on with the next call.
    pub async fn next(&mut self) -> Result<Vec<Arc<Change>>, WatchEnd> {
        loop {
            match &mut self.phase {
                Phase::Ended(end) => return Err(*end),
                Phase::Live(registration) => match registration.take() {
                    Taken::Changes(changes) => {
                        self.position = changes.last().map_or(self.position, |change| change.revision());
                        return Ok(changes);
                    }
                    Taken::Ended(end) => return Err(end),
                    Taken::Nothing => registration.wait().await,
                },
                Phase::Replaying { history, reading } => {
                    if reading.is_none() {
                        if let Some(registration) = self.hub.join(&self.scope, self.position) {
                            self.phase = Phase::Live(registration);
                            continue;
                        }
                        let page = history.page(self.scope.clone(), self.position, self.hub.published());
                        *reading = Some(Mutex::new(page));
                    }
                    let page = read(reading).await;
                    if let Some(changes) = self.turn(page) {
                        return Ok(changes);
                    }
                }
            }
        }
    }

    /// A revision up to which every matching change was handed out: a safe bookmark.
    pub fn progress(&self) -> Revision {
        match &self.phase {
            Phase::Live(registration) => registration.progress(&self.hub).max(self.position),
            Phase::Replaying { .. } | Phase::Ended(_) => self.position,
        }
    }

    fn turn(&mut self, page: Result<ReplayPage, WatchEnd>) -> Option<Vec<Arc<Change>>> {
        match page {
            Ok(page) => {
                self.position = page.upto;
                (!page.changes.is_empty()).then_some(page.changes)
            }
            Err(end) => {
                self.phase = Phase::Ended(end);
                None
            }
        }
    }
}

/// Waits for the page, and forgets it only when it is complete.
async fn read(reading: &mut Option<Reading>) -> Result<ReplayPage, WatchEnd> {
    let Some(page) = reading else { return Err(WatchEnd::Closed) };
    let page = page.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).await;
    *reading = None;
    page
}
