//! Leadership over a table of leases that several processes share: who holds which lease, in which term.
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
//!
//! Here is what is decided; how the table is read and written is its own affair ([`Table`]).

mod keeper;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::lease::{Counts, Held, Leases, Standing};
use mainstay_runtime::{Class, Failure};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::StoreError;
use crate::lock;
pub(crate) use keeper::run;

/// After so long without renewal, as seen by who waits, a lease is taken.
const SILENCE: Duration = Duration::from_secs(10);
/// After so long without having renewed, a holder stops.
const GIVE_UP: Duration = Duration::from_millis(7_500);
/// How often leases are renewed.
const RENEW: Duration = Duration::from_millis(2_500);
/// How often it is looked whether a lease that is wanted is free, where nothing tells of it.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// The same, when it is free and others may go first.
const SOON: Duration = Duration::from_millis(20);
/// The same, where none is wanted.
const IDLE: Duration = Duration::from_millis(500);
/// How long one word with the database may take.
const WORD: Duration = Duration::from_secs(2);
/// Who holds more lets others go first, by so much for each.
const COURTESY: Duration = Duration::from_millis(10);
const MOST_COURTESY: Duration = Duration::from_millis(200);
/// Who has its share lets others go first for so long.
const FULL_COURTESY: Duration = Duration::from_secs(1);
/// How often one lease may be handed back because it is more than the share, and how long it is left to others then.
const BALANCE: Duration = Duration::from_secs(3);
/// After one that nobody else took, none is handed back for so long: who is there may be frozen, or deaf.
const SPURNED: Duration = Duration::from_mins(1);

/// What a word with the table gives.
pub(crate) type Word<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The table of leases, as one process's session with it has it. A word may be lost: then what it said holds or does not.
pub(crate) trait Table: Send {
    /// Sees to it that there is a session. Tells whether it is a new one, which the rows do not name yet.
    fn sit(&mut self) -> Word<'_, bool>;

    /// All leases, and how many replicas there are.
    fn observe(&self) -> Word<'_, Observed>;

    /// Takes a lease whose term and time of renewal are still what was seen, or that there is not yet, and ends the session of
    /// who had it. Gives the new term, above all that there were, when this process has seen whatever was written under
    /// earlier ones; nothing when somebody else was first, or the holder has renewed it.
    fn take(&self, name: &'static str, seen: Option<(i64, i64)>) -> Word<'_, Option<i64>>;

    /// Renews these leases, in these terms, and gives the names of those that are still held.
    fn renew<'a>(&'a self, names: &'a [&'static str], terms: &'a [i64]) -> Word<'a, Vec<String>>;

    /// Hands a lease back, if it still is in this term.
    fn release(&self, name: &'static str, term: i64) -> Word<'_, ()>;

    /// How often it is to be looked whether a lease that is wanted is free.
    fn looks(&self) -> Duration {
        LOOK
    }

    /// Tells the others that one was handed back.
    fn tell(&self);

    /// Ends the session, which has not answered for long: words may still arrive by it, and it is not to speak for a leader
    /// that hears nothing.
    fn hang_up(&mut self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    /// Whether this process is to hold nothing any more: it is closed, or another has its name.
    fn is_over(&self) -> bool;
}

/// The table at one moment.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) leases: Vec<Row>,
    /// Replicas that have a session; at least 1.
    pub(crate) replicas: usize,
}

/// A lease in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) term: i64,
    /// When it was renewed, by the table's clock, in milliseconds: only that it changes says something.
    pub(crate) renewed: i64,
    /// It was handed back, or its holder's session is known to be gone, or it is this process's own, to which the answer
    /// was lost (those that it holds are not asked for).
    pub(crate) gone: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Leadership {
    leases: Mutex<BTreeMap<&'static str, Lease>>,
    changed: Notify,
    counts: Mutex<Counts>,
}

impl Leadership {
    /// Another replica has handed one back.
    pub(crate) fn nudge(&self) {
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

    fn counts(&self) -> Counts {
        *lock(&self.counts)
    }
}

impl Lease {
    fn is_wanted(&self) -> bool {
        self.held.is_none() && self.waiting.iter().any(|grant| !grant.is_closed())
    }
}
