//! Leadership over the database: who holds which lease, in which term.
//!
//! The row is the authority: whoever raises its term holds the lease, and what is written under an older term is refused.
//! Everything else only decides when to try:
//! - A lease that was handed back, or whose holder's session is gone (its lock is not there), is taken at once.
//! - One whose row was not renewed for [`SILENCE`], as seen here, by this process's own monotonic clock, is taken then, and
//!   the holder's session is ended.
//! - A holder that could not renew for [`GIVE_UP`] stops before that, whatever it hears later.
//!
//! One that holds more than its share hands one back, so that leases spread over the replicas. Where a pooler hands sessions
//! around, the lock says nothing and is left out: then only silence counts.

mod keeper;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::lease::{Held, Leases, Standing};
use mainstay_runtime::{Class, Failure};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock;
pub(super) use keeper::run;

/// After so long without renewal, as seen by who waits, a lease is taken.
const SILENCE: Duration = Duration::from_secs(10);
/// After so long without having renewed, a holder stops.
const GIVE_UP: Duration = Duration::from_millis(7_500);
/// How often leases are renewed.
const RENEW: Duration = Duration::from_millis(2_500);
/// How often it is looked whether a lease that is wanted is free.
const LOOK: Duration = Duration::from_millis(50);
/// How long one word with the database may take.
const WORD: Duration = Duration::from_secs(2);
/// Who holds more lets others go first, by so much for each.
const COURTESY: Duration = Duration::from_millis(10);
const MOST_COURTESY: Duration = Duration::from_millis(200);
/// Who has its share lets others go first for so long.
const FULL_COURTESY: Duration = Duration::from_secs(1);
/// How often one lease may be handed back because it is more than the share, and how long it is left to others then.
const BALANCE: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Leadership {
    leases: Mutex<BTreeMap<&'static str, Lease>>,
    changed: Notify,
}

impl Leadership {
    /// Another replica has handed one back.
    pub(super) fn nudge(&self) {
        self.changed.notify_one();
    }
}

/// A lease as this process sees it.
#[derive(Debug, Default)]
struct Lease {
    waiting: VecDeque<oneshot::Sender<Held>>,
    held: Option<Holding>,
    /// The newest term that this process had.
    term: u64,
    began: Option<Instant>,
    /// Term and time of renewal as they were read last, and since when they are so.
    seen: Option<(i64, i64, Instant)>,
    /// Since when it can be taken.
    free: Option<Instant>,
    /// Left to others until then.
    left: Option<Instant>,
}

#[derive(Debug)]
struct Holding {
    term: i64,
    lost: CancellationToken,
    /// When the last renewal that succeeded was sent.
    renewed: Instant,
    /// Its owner is done with it.
    over: bool,
}

/// Dropped when the owner is done.
struct Kept {
    leadership: Weak<Leadership>,
    name: &'static str,
    term: i64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(leadership) = self.leadership.upgrade() else { return };
        if let Some(holding) = lock(&leadership.leases).get_mut(self.name).and_then(|lease| lease.held.as_mut())
            && holding.term == self.term
        {
            holding.over = true;
        }
        leadership.changed.notify_one();
    }
}

impl Leases for Leadership {
    fn acquire(&self, name: &'static str) -> BoxFuture<'_, Result<Held, Failure>> {
        async move {
            let (grant, granted) = oneshot::channel();
            lock(&self.leases).entry(name).or_default().waiting.push_back(grant);
            self.changed.notify_one();
            granted.await.map_err(|_| Failure::new(Class::TRANSIENT, "wait for a lease: the store is closed"))
        }
        .boxed()
    }

    fn standings(&self) -> Vec<Standing> {
        let standing = |(name, lease): (&&'static str, &Lease)| Standing {
            name,
            term: lease.term,
            held: lease.held.as_ref().is_some_and(|holding| !holding.lost.is_cancelled()),
            began: lease.began.map_or(Duration::ZERO, |began| began.elapsed()),
        };
        lock(&self.leases).iter().map(standing).collect()
    }
}

impl Lease {
    fn is_wanted(&self) -> bool {
        self.held.is_none() && self.waiting.iter().any(|grant| !grant.is_closed())
    }
}
