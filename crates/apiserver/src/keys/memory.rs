//! A ring that lives as long as the process, for tests and benches.

use std::sync::{Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use mainstay_store::{Keyring, Ring, RingChange, StoreError};
use tokio::sync::watch;

/// See the module.
#[derive(Debug)]
pub(super) struct MemoryRing {
    ring: Mutex<Ring>,
    changes: watch::Sender<u64>,
}

impl MemoryRing {
    pub(super) fn new(ring: Ring) -> Self {
        Self { changes: watch::Sender::new(ring.generation), ring: Mutex::new(ring) }
    }

    fn change(&self, change: &RingChange) -> Option<u64> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.generation != change.generation {
            return None;
        }
        let goes = |name: &str, version| change.remove.iter().any(|gone| *gone.0 == *name && gone.1 == version);
        let comes = |name: &str, version| change.add.iter().any(|new| *new.name == *name && new.version == version);
        ring.rows.retain(|row| !goes(&row.name, row.version) && !comes(&row.name, row.version));
        ring.rows.extend(change.add.iter().cloned());
        ring.rows.sort_by(|one, other| (&one.name, one.version).cmp(&(&other.name, other.version)));
        ring.generation += 1;
        self.changes.send_replace(ring.generation);
        Some(ring.generation)
    }
}

impl Keyring for MemoryRing {
    fn ring(&self) -> BoxFuture<'_, Result<Ring, StoreError>> {
        std::future::ready(Ok(self.ring.lock().unwrap_or_else(PoisonError::into_inner).clone())).boxed()
    }

    fn change_ring(&self, change: RingChange) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        std::future::ready(Ok(self.change(&change))).boxed()
    }

    fn ring_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
