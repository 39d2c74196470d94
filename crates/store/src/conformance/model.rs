//! What a store must hold after a history of writes, in the simplest possible way.

use std::collections::BTreeMap;

use super::validator::Record;
use crate::given::Given;
use crate::object::{Key, Requires, Revision, Write};
use crate::watch::{ChangeKind, Scope};

/// Everything that ever happened, and the floor.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// All changes, in order.
    pub log: Vec<Record>,
    /// What lies below is expired.
    pub floor: Revision,
}

/// Why a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another object is not as required.
    Unmet,
    /// The key is taken.
    Exists,
    /// There is no such object.
    Missing,
    /// It is at another revision.
    Conflict,
}

impl Model {
    /// The newest revision.
    pub fn revision(&self) -> Revision {
        Revision(self.log.len() as u64)
    }

    /// An object as it was at a revision.
    pub fn at(&self, key: &Key, revision: Revision) -> Option<&Record> {
        let newest = self.log.iter().rev().find(|record| record.revision <= revision && record.key == *key)?;
        (newest.kind != ChangeKind::Deleted).then_some(newest)
    }

    /// An object as it is.
    pub fn current(&self, key: &Key) -> Option<&Record> {
        self.at(key, self.revision())
    }

    /// The objects of a scope at a revision, in key order.
    pub fn snapshot(&self, scope: &Scope, at: Revision) -> Vec<&Record> {
        let mut objects = BTreeMap::new();
        for record in self.log.iter().filter(|record| record.revision <= at && scope.matches(&record.key)) {
            match record.kind {
                ChangeKind::Deleted => objects.remove(&record.key),
                ChangeKind::Created | ChangeKind::Updated => objects.insert(&record.key, record),
            };
        }
        objects.into_values().collect()
    }

    /// Whether what is given for a write holds; leaders are not known here.
    pub fn meets(&self, given: &Given, write: &Write) -> bool {
        let stands = |required: &Requires| {
            self.current(&required.key).is_some_and(|record| record.revision == required.revision)
        };
        let near = |record: &&Record| {
            record.kind == ChangeKind::Created
                && record.key.resource == write.key().resource
                && record.key.namespace == write.key().namespace
        };
        let newest = self.log.iter().rev().find(near).map_or(Revision(0), |record| record.revision);
        given.requires.as_ref().is_none_or(stands)
            && given.none_since.is_none_or(|since| since >= self.floor && since >= newest)
    }

    /// What a write does.
    ///
    /// # Errors
    /// Why it does nothing.
    pub fn write(&mut self, write: &Write) -> Result<Record, Refusal> {
        if let Some(required) = write.requires()
            && self.current(&required.key).is_none_or(|record| record.revision != required.revision)
        {
            return Err(Refusal::Unmet);
        }
        let previous = self.current(write.key()).map(|record| record.revision);
        let kind = match (write, previous) {
            (Write::Create { .. }, Some(_)) => return Err(Refusal::Exists),
            (Write::Update { .. } | Write::Delete { .. }, None) => return Err(Refusal::Missing),
            (Write::Update { expected, .. } | Write::Delete { expected, .. }, Some(at)) if *expected != at => {
                return Err(Refusal::Conflict);
            }
            (Write::Create { .. }, None) => ChangeKind::Created,
            (Write::Update { .. }, Some(_)) => ChangeKind::Updated,
            (Write::Delete { .. }, Some(_)) => ChangeKind::Deleted,
        };
        let revision = Revision(self.revision().0 + 1);
        let body = write.draft().finish(revision).to_vec();
        let record = Record { revision, key: write.key().clone(), kind, body, previous };
        self.log.push(record.clone());
        Ok(record)
    }
}
