//! The ring of keys: versions of named secrets, each wrapped by a key that the store never sees.
//!
//! All replicas read the same ring, and change it by compare-and-swap: two that start or rotate at once agree, since only
//! one of them finds the ring as it read it. What the names and bytes mean is known to who wrapped them.
//!
//! Invariants:
//! - Each change that is made raises the ring's generation, in the transaction of the change. No generation is given twice,
//!   also not after a restore.
//! - A change is made whole or not at all, and is durable before it is told.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::error::StoreError;

/// The most that one wrapped secret may have, in bytes.
pub const MAX_WRAPPED: usize = 64 << 10;

/// One version of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Which key.
    pub name: Arc<str>,
    /// Which version of it, from 1.
    pub version: u64,
    /// Its bytes, wrapped.
    pub wrapped: Bytes,
    /// When it was made, in milliseconds since 1970, as its maker's clock has it.
    pub created_ms: i64,
}

impl fmt::Debug for KeyRow {
    /// Without the bytes, which are of no use in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({} bytes)", self.name, self.version, self.wrapped.len())
    }
}

/// All keys at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ring {
    /// Raised by each change; 0 before the first.
    pub generation: u64,
    /// In order of name and version.
    pub rows: Vec<KeyRow>,
}

/// A change of the ring, all or nothing.
#[derive(Debug, Clone, Default)]
pub struct RingChange {
    /// The generation that was read; another one, and nothing is changed.
    pub generation: u64,
    /// Names and versions that go. One that is not there is gone already.
    pub remove: Vec<(Arc<str>, u64)>,
    /// Versions that come, after the removals. One takes the place of a row with its name and version.
    pub add: Vec<KeyRow>,
}

/// The keys of an installation, shared by its replicas.
pub trait Keyring: Send + Sync + 'static {
    /// The ring as it is stored now; read from who decides, not from a copy that may lag.
    fn ring(&self) -> BoxFuture<'_, Result<Ring, StoreError>>;

    /// Makes a change if the ring is still at the generation that it names, and gives the new one; `None` when it is not,
    /// and nothing was changed. Dropping the future does not undo it: it may still be made.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for more than [`MAX_WRAPPED`] bytes. After [`StoreError::Database`] the change may have been
    /// made: read the ring.
    fn change_ring(&self, change: RingChange) -> BoxFuture<'_, Result<Option<u64>, StoreError>>;

    /// The newest generation that this process has seen: changes within seconds of a change by whichever replica. A hint:
    /// while the database is away it does not change.
    fn ring_changes(&self) -> watch::Receiver<u64>;
}
