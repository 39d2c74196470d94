//! The objects of operations that were claimed here: whoever ends one replaces a version that was read a moment ago, and need
//! not be read again to be told to watchers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::object::{Object, Revision};

/// What is kept at most, in bytes of bodies; beyond, the oldest go.
const BYTES: usize = 8 << 20;

/// Versions, by their revisions.
#[derive(Debug, Default)]
pub(super) struct ClaimedObjects {
    versions: BTreeMap<Revision, Arc<Object>>,
    bytes: usize,
}

impl ClaimedObjects {
    pub(super) fn keep(&mut self, object: &Arc<Object>) {
        if self.versions.insert(object.revision, Arc::clone(object)).is_none() {
            self.bytes += object.body.len();
        }
        while self.bytes > BYTES
            && let Some((_, oldest)) = self.versions.pop_first()
        {
            self.bytes -= oldest.body.len();
        }
    }

    /// Moves those of the wanted that are here into `known`, and gives the others.
    pub(super) fn take(&mut self, wanted: Vec<i64>, known: &mut HashMap<i64, Arc<Object>>) -> Vec<i64> {
        let mut others = wanted;
        others.retain(|revision| {
            let Some(object) = self.versions.remove(&Revision(revision.cast_unsigned())) else { return true };
            self.bytes -= object.body.len();
            known.insert(*revision, object);
            false
        });
        others
    }
}
