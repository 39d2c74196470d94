//! Host uid ranges: one of 65,536 per workspace, so that no sandbox can touch another's files even if one got out.
//!
//! A workspace keeps its range as long as it exists (`workspaces/KEY/claim.json`); one Pod at a time holds it. What is
//! on the disk is the truth: the table here is built from it at start.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::error::AgentError;
use super::layout::{self, Layout};
use super::records::PodRecord;
use crate::launch::{PodRef, SessionRef};

/// The first range; below it are the ranges that distributions hand out.
const FIRST: u32 = 0x1000_0000;
/// How many uids one range has.
pub(crate) const SIZE: u32 = 0x1_0000;
/// The first that is not given out: the last range ends below the invalid uid.
const END: u32 = 0xFFFF_0000;
/// The uid and gid inside a sandbox that the agent process has.
pub(crate) const INSIDE: u32 = 1000;

/// Whose a workspace is: `claim.json` in its directory, beside what the shim keeps there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Owner {
    /// The Pod that made it.
    pub(crate) pod: PodRef,
    /// The session that keeps it, when it outlives its Pod.
    pub(crate) session: Option<SessionRef>,
    /// The first uid of its range.
    pub(crate) uid_base: u32,
}

/// Which workspace has which range, and who holds it.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    by_key: Mutex<BTreeMap<String, Range>>,
}

#[derive(Debug)]
struct Range {
    base: u32,
    holder: Option<String>,
}

impl Ranges {
    /// The ranges of all workspaces on the disk, held by the Pods that were started in them and are not cleaned up.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub(crate) fn load(layout: &Layout) -> io::Result<Self> {
        let ranges = Self::default();
        for key in layout::names(&layout.workspaces())? {
            if let Some(owner) = layout::read_record::<Owner>(&layout.owner(&key))? {
                ranges.lock().insert(key, Range { base: owner.uid_base, holder: None });
            }
        }
        for uid in layout::names(&layout.pods())? {
            if let Some(record) = layout::read_record::<PodRecord>(&layout.record(&uid))? {
                ranges.adopt(&record.workspace_key, &uid, record.uid_base);
            }
        }
        Ok(ranges)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Range>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `pod` the range of workspace `key`.
    ///
    /// # Errors
    /// [`AgentError::WorkspaceBusy`] while another Pod holds it; refused when no range is left.
    pub(crate) fn hold(&self, key: &str, pod: &str) -> Result<u32, AgentError> {
        let mut ranges = self.lock();
        if let Some(range) = ranges.get_mut(key) {
            return match &range.holder {
                Some(holder) if holder != pod => {
                    Err(AgentError::WorkspaceBusy { key: key.to_owned(), pod: holder.clone() })
                }
                _ => {
                    range.holder = Some(pod.to_owned());
                    Ok(range.base)
                }
            };
        }
        let mut taken: Vec<u32> = ranges.values().map(|range| range.base).collect();
        taken.sort_unstable();
        let free = taken.into_iter().fold(FIRST, |next, base| if base == next { next + SIZE } else { next });
        if free >= END {
            return Err(AgentError::Refused("no uid range is left for another workspace".into()));
        }
        ranges.insert(key.to_owned(), Range { base: free, holder: Some(pod.to_owned()) });
        Ok(free)
    }

    /// Takes note of a range that a live sandbox has already.
    pub(crate) fn adopt(&self, key: &str, pod: &str, base: u32) {
        self.lock().insert(key.to_owned(), Range { base, holder: Some(pod.to_owned()) });
    }

    /// `pod` no longer runs: a workspace that outlives it may be another's.
    pub(crate) fn let_go(&self, pod: &str) {
        for range in self.lock().values_mut().filter(|range| range.holder.as_deref() == Some(pod)) {
            range.holder = None;
        }
    }

    /// Nothing is left of the workspace `key`.
    pub(crate) fn forget(&self, key: &str) {
        let mut ranges = self.lock();
        if ranges.get(key).is_some_and(|range| range.holder.as_deref().is_none_or(|holder| holder == key)) {
            ranges.remove(key);
        }
    }

    /// The range that a Pod holds.
    pub(crate) fn held_by(&self, pod: &str) -> Option<u32> {
        let ranges = self.lock();
        ranges.values().find(|range| range.holder.as_deref() == Some(pod)).map(|range| range.base)
    }

    /// The Pod that holds a workspace.
    pub(crate) fn holder(&self, key: &str) -> Option<String> {
        self.lock().get(key).and_then(|range| range.holder.clone())
    }

    /// Whether a Pod holds a workspace.
    pub(crate) fn is_held(&self, key: &str) -> bool {
        self.holder(key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_never_shared_and_are_given_out_again() {
        let ranges = Ranges::default();
        assert_eq!(ranges.hold("a", "pod-a").unwrap(), FIRST);
        assert_eq!(ranges.hold("b", "pod-b").unwrap(), FIRST + SIZE);
        assert_eq!(ranges.hold("a", "pod-a").unwrap(), FIRST, "asking again is harmless");
        assert!(matches!(ranges.hold("a", "pod-2"), Err(AgentError::WorkspaceBusy { .. })));
        ranges.let_go("pod-2");
        ranges.forget("a");
        assert_eq!(ranges.held_by("pod-a"), Some(FIRST), "only its holder gives it up");
        ranges.let_go("pod-a");
        assert!(!ranges.is_held("a"));
        ranges.forget("a");
        assert_eq!(ranges.hold("c", "pod-c").unwrap(), FIRST);
    }

    #[test]
    fn a_kept_workspace_keeps_its_range_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned()).unwrap();
        layout::make_dir(&layout.workspace("s"), 0o700).unwrap();
        let pod = PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() };
        let owner = Owner { pod, session: None, uid_base: FIRST + SIZE };
        layout::write_record(&layout.owner("s"), &owner, layout::Keep::OverPowerLoss).unwrap();
        layout::make_dir(&layout.workspace("torn"), 0o700).unwrap();
        std::fs::write(layout.owner("torn"), "").unwrap();
        let ranges = Ranges::load(&layout).unwrap();
        assert_eq!(ranges.hold("other", "pod-1").unwrap(), FIRST);
        assert_eq!(ranges.hold("another", "pod-3").unwrap(), FIRST + 2 * SIZE);
        assert_eq!(ranges.hold("s", "pod-2").unwrap(), FIRST + SIZE);
        ranges.let_go("pod-2");
        assert_eq!(ranges.hold("s", "pod-4").unwrap(), FIRST + SIZE);
    }
}
