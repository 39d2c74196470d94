//! What must hold for a write beside its own compare-and-swap.

use crate::lease::Fence;
use crate::object::{Requires, Revision};

/// Conditions of a write. Each is looked at in the write's own transaction: between what its writer saw and what is written
/// nothing slips in, whichever replica makes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// It is a leader's, in this term.
    pub fence: Option<Fence>,
    /// Another object is still what its writer saw, besides what a create itself requires.
    pub requires: Option<Requires>,
    /// Of its resource nothing was created in its namespace above this revision: what its writer counted there is not more
    /// by now. It does not hold below the compaction floor, where that is not known.
    pub none_since: Option<Revision>,
}

impl From<Fence> for Given {
    fn from(fence: Fence) -> Self {
        Self { fence: Some(fence), ..Self::default() }
    }
}
