//! Judges what a watcher saw against what happened.

use std::collections::HashSet;
use std::sync::Arc;

use crate::object::{Key, Revision};
use crate::watch::{Change, ChangeKind, Scope};

/// A change, as it must be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its revision.
    pub revision: Revision,
    /// Which object.
    pub key: Key,
    /// What happened.
    pub kind: ChangeKind,
    /// The object's bytes.
    pub body: Vec<u8>,
    /// The revision that the object had before.
    pub previous: Option<Revision>,
}

/// What a watcher saw, over all its resumptions.
#[derive(Debug, Clone)]
pub struct Recording {
    /// What was watched.
    pub scope: Scope,
    /// After which revision it began.
    pub start: Revision,
    /// What it saw, in order.
    pub events: Vec<Event>,
}

/// Something that a watcher saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A change.
    Change(Record),
    /// A bookmark.
    Progress(Revision),
    /// Nothing came although something was due.
    Stalled,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A change at or below the start, or seen before.
    #[error("revision {0} was seen again, or though it lies before the start")]
    Repeated(Revision),
    /// A change was seen before one of a lower revision.
    #[error("revision {0} was seen before a lower one")]
    Reordered(Revision),
    /// A matching change was passed over.
    #[error("revision {0} was never seen")]
    Missing(Revision),
    /// A bookmark was followed by a change that it covers, or by a lower bookmark.
    #[error("the bookmark {0} ran ahead")]
    Ahead(Revision),
    /// A change that never happened like that, or is not in the scope.
    #[error("revision {0} is not what happened")]
    Wrong(Revision),
    /// The watcher got stuck.
    #[error("nothing came although something was due")]
    Stalled,
}

impl Recording {
    /// Nothing seen yet.
    pub fn new(scope: Scope, start: Revision) -> Self {
        Self { scope, start, events: Vec::new() }
    }

    /// Notes changes.
    pub fn changes(&mut self, changes: &[Arc<Change>]) {
        self.events.extend(changes.iter().map(|change| Event::Change(record(change))));
    }

    /// Notes a bookmark.
    pub fn progress(&mut self, revision: Revision) {
        self.events.push(Event::Progress(revision));
    }

    /// Notes that nothing came.
    pub fn stall(&mut self) {
        self.events.push(Event::Stalled);
    }

    /// The changes, in order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.events.iter().filter_map(|event| match event {
            Event::Change(record) => Some(record),
            Event::Progress(_) | Event::Stalled => None,
        })
    }

    fn shows(&self, revision: Revision) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Change(record) if record.revision == revision))
    }

    /// Where to resume.
    pub fn position(&self) -> Revision {
        let seen = self.events.iter().rev().find_map(|event| match event {
            Event::Change(record) => Some(record.revision),
            Event::Progress(revision) => Some(*revision),
            Event::Stalled => None,
        });
        seen.unwrap_or(self.start)
    }
}

/// The record of a change. Its frame must be its object's bytes in an envelope.
fn record(change: &Change) -> Record {
    let object = &change.object;
    let envelope = [b"{\"type\":\"", change.kind.as_str().as_bytes(), b"\",\"object\":", &object.body, b"}\n"].concat();
    let body = if change.frame == envelope { object.body.to_vec() } else { change.frame.to_vec() };
    let previous = change.previous.as_ref().map(|object| object.revision);
    Record { revision: object.revision, key: object.key.clone(), kind: change.kind, body, previous }
}

/// Whether the recording shows each change of `log` that it must show, once, in order, and nothing else. `log` is
/// complete and in order.
///
/// # Errors
/// The first broken promise.
pub fn validate(log: &[Record], recording: &Recording) -> Result<(), Violation> {
    let (mut last, mut bookmark) = (recording.start, recording.start);
    let mut seen = HashSet::new();
    for event in &recording.events {
        match event {
            Event::Stalled => return Err(Violation::Stalled),
            Event::Progress(revision) if *revision < bookmark => return Err(Violation::Ahead(bookmark)),
            Event::Progress(revision) => {
                if let Some(missing) = due(log, recording, last, *revision) {
                    return Err(Violation::Missing(missing));
                }
                bookmark = *revision;
                last = last.max(*revision);
            }
            Event::Change(record) => {
                let revision = record.revision;
                if !seen.insert(revision) || revision <= recording.start {
                    return Err(Violation::Repeated(revision));
                }
                if revision <= bookmark {
                    return Err(Violation::Ahead(bookmark));
                }
                if !recording.scope.matches(&record.key) || !log.contains(record) {
                    return Err(Violation::Wrong(revision));
                }
                if let Some(missing) = due(log, recording, last, Revision(revision.0 - 1)) {
                    return Err(if recording.shows(missing) {
                        Violation::Reordered(revision)
                    } else {
                        Violation::Missing(missing)
                    });
                }
                last = revision;
            }
        }
    }
    Ok(())
}

/// The first change after `after` and up to `upto` that the recording has to show.
fn due(log: &[Record], recording: &Recording, after: Revision, upto: Revision) -> Option<Revision> {
    let passed = log.iter().filter(|record| record.revision > after && record.revision <= upto);
    passed.map(|record| (record.revision, &record.key)).find(|(_, key)| recording.scope.matches(key)).map(|(at, _)| at)
}
