//! Leases: who does what only one may do, and in which *term*.
//!
//! A lease is held by one process at a time. Each time somebody acquires it, its term grows: the term goes with every
//! effect as its fencing token, so that one who was replaced and does not know it yet is refused. Holding is not
//! permission for ever: [`Held::lost`] says when it is over, and whoever holds looks at it between effects.

pub mod kubernetes;
mod local;

use std::any::Any;
use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

pub use local::{LocalLeases, Terms, VolatileTerms};

/// Where leases are had.
pub trait Leases: fmt::Debug + Send + Sync + 'static {
    /// Waits until this process holds the lease `name`, for as long as others hold it.
    ///
    /// # Errors
    /// When it cannot be found out who holds it, or the new term not be kept. The caller backs off and tries again.
    ///
    /// # Cancel safety
    /// Who stops waiting holds nothing; a term may have passed without a holder.
    fn acquire(&self, name: &'static str) -> BoxFuture<'_, Result<Held, Failure>>;

    /// Every lease that was asked for, as this process sees it, in order of names.
    fn standings(&self) -> Vec<Standing>;

    /// What has happened to them. Where no other process can have one, nothing does.
    fn counts(&self) -> Counts {
        Counts::default()
    }
}

/// What has happened to the leases of one process since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Taken: from others, back, or for the first time.
    pub taken: u64,
    /// How long those that others had had were without a sign of their holder when they were taken, all together.
    pub silent: Duration,
    /// Given up because they could not be renewed in time.
    pub given_up: u64,
    /// Found to be held by another process.
    pub replaced: u64,
    /// Looks at who holds them, renewals among them, that failed or took too long.
    pub failed: u64,
}

/// A lease as one process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: &'static str,
    /// The newest term that this process had; 0 when it had none.
    pub term: u64,
    /// Whether this process holds it.
    pub held: bool,
    /// How long ago the newest term began; zero when there was none.
    pub began: Duration,
}

/// A lease that is held; whoever drops it hands it back.
pub struct Held {
    /// The lease.
    pub name: &'static str,
    /// The fencing token of what is done under it: higher than that of each earlier holder, at least 1.
    pub term: u64,
    /// Cancelled when it is not held any more: nothing may be begun then.
    pub lost: CancellationToken,
    kept: Box<dyn Any + Send + Sync>,
}

impl Held {
    /// A lease; dropping `kept` hands it back.
    pub fn new(name: &'static str, term: u64, lost: CancellationToken, kept: impl Any + Send + Sync) -> Self {
        Self { name, term, lost, kept: Box::new(kept) }
    }

    /// Hands it back, for others to acquire at once. To be called when nothing is under way any more.
    pub fn release(self) {
        drop(self.kept);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("name", &self.name).field("term", &self.term).finish_non_exhaustive()
    }
}
