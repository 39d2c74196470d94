//! Turns: how workers of several replicas hear, over Redis Streams, that there is something to claim.
//!
//! A *turn* is an entry of a stream: one operation has become ready. Who takes a turn claims, and acknowledges it once the
//! claim has been answered. For what this process has made ready itself, and has places for, it takes its own turn, which
//! goes over no wire. Which operation it gets is the store's to say, as ever: lanes, priorities and keys are judged in one
//! place, and the rows stay the truth. So a turn may be lost, doubled, late or made up, and nothing is lost or carried out
//! twice:
//!
//! | what happens | what comes of it |
//! |---|---|
//! | Redis is away, or cut off | workers hear of the store's own hints at once again ([`mainstay_store::Queue::queue_changes`]) |
//! | turns are lost (flushed, failed over, trimmed) | a hint that no turn follows is heeded after 0.2 to 0.4 s |
//! | the stream or its group is gone | made anew, from the beginning of what is there |
//! | who took a turn dies before it claims | others take it over when it has lain for 5 s, page by page |
//! | a turn was taken over five times, or is none at all | it is put with the dead turns, the last 1,000 of them, for people |
//! | nobody takes turns | the stream keeps the last 4,096: by then no worker is idle |
//!
//! What is told, and what is acknowledged, goes over one connection; taking blocks, and has another. Every call has a deadline.

mod address;
mod link;
mod metrics;
mod take;
mod tell;

use std::fmt;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainstay_runtime::Tasks;
use mainstay_runtime::guard::Guard;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

pub use address::{Address, AddressError};
pub use metrics::Metrics;

/// How long a turn may follow the hint of the same change, at least, before the hint is heeded; at most twice this.
const GRACE: Duration = Duration::from_millis(200);

/// The turns of one process; cheap to clone.
#[derive(Clone)]
pub struct Turns {
    shared: Arc<Shared>,
}

struct Shared {
    names: Names,
    address: Address,
    metrics: Metrics,
    /// How many turns are wanted now: none while nobody waits.
    wanted: watch::Sender<usize>,
    /// Whether turns are coming: taking them works.
    coming: watch::Sender<bool>,
    hand: Mutex<AtHand>,
    arrived: Notify,
    /// To be acknowledged.
    done: Mutex<Vec<String>>,
    outbox: Notify,
}

/// Turns to be used.
#[derive(Debug, Default)]
struct AtHand {
    /// Taken, not acknowledged.
    taken: Vec<String>,
    /// Of this process, told to nobody.
    own: u64,
}

impl AtHand {
    fn is_empty(&self) -> bool {
        self.own == 0 && self.taken.is_empty()
    }

    /// Those of another, too.
    fn join(&mut self, other: &mut Self) {
        self.taken.append(&mut other.taken);
        self.own += std::mem::take(&mut other.own);
    }
}

impl Shared {
    /// Of so many turns this process takes those that it has places for now; gives the others.
    fn keep_own(&self, turns: u64) -> u64 {
        let free = u64::try_from(*self.wanted.borrow()).unwrap_or(u64::MAX);
        let own = turns.min(free);
        if own > 0 {
            self.metrics.count("own", own);
            lock(&self.hand).own += own;
            self.arrived.notify_one();
        }
        turns - own
    }
}

/// What things are called in Redis.
struct Names {
    stream: String,
    dead: String,
    consumer: String,
}

/// The one group: every turn goes to one of its consumers.
const GROUP: &str = "workers";

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

impl Turns {
    /// Turns over the Redis at `address`, of the replicas that share the `place` (a name that no other installation with this Redis
    /// has); this one is called `consumer` among them. Nothing is sent yet.
    pub fn new(address: Address, place: &str, consumer: &str, metrics: Metrics) -> Self {
        // Braces: in a cluster, both are in one slot.
        let names = Names {
            stream: format!("mainstay:{{{place}}}:turns"),
            dead: format!("mainstay:{{{place}}}:dead-turns"),
            consumer: consumer.to_owned(),
        };
        let shared = Shared {
            names,
            address,
            metrics,
            wanted: watch::Sender::new(0),
            coming: watch::Sender::new(false),
            hand: Mutex::default(),
            arrived: Notify::new(),
            done: Mutex::default(),
            outbox: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts telling: of each operation that this process makes ready ([`mainstay_store::Queue::made_ready`]), one turn.
    pub fn tell(&self, tasks: &Tasks, mut made_ready: watch::Receiver<u64>) {
        let (shared, told) = (Arc::clone(&self.shared), *made_ready.borrow_and_update());
        drop(tasks.essential("turns told", move |stop| tell::run(shared, (made_ready, told), stop)));
    }

    /// Starts taking, for the workers of this process.
    pub(crate) fn take(&self, tasks: &Tasks) {
        let shared = Arc::clone(&self.shared);
        drop(tasks.essential("turns taken", |stop| take::run(shared, stop)));
    }

    /// Waits for a turn for whoever has `free` places. Cancel safe.
    pub(crate) async fn arrived(&self, free: usize) {
        self.shared.wanted.send_replace(free);
        let _waits = NobodyWaits(&self.shared.wanted);
        loop {
            let arrived = self.shared.arrived.notified();
            if !lock(&self.shared.hand).is_empty() {
                return;
            }
            arrived.await;
        }
    }

    /// Waits, after a hint, for as long as its turn may still come: not at all when none do. Cancel safe.
    pub(crate) async fn overdue(&self) {
        if !Guard::Hints.holds() {
            std::future::pending::<()>().await;
        }
        let mut coming = self.shared.coming.subscribe();
        let grace = GRACE.mul_f64(1.0 + rand::random::<f64>());
        tokio::select! {
            _ = coming.wait_for(|coming| !coming) => {}
            () = sleep(grace) => {}
        }
    }

    /// The turns at hand: of whoever claims now.
    pub(crate) fn hand(&self) -> Hand<'_> {
        Hand { shared: &self.shared, turns: std::mem::take(&mut *lock(&self.shared.hand)) }
    }
}

/// Turns for which a claim is made. Dropped without having been acknowledged, they are at hand again.
pub(crate) struct Hand<'a> {
    shared: &'a Shared,
    turns: AtHand,
}

impl Hand<'_> {
    /// The claim was answered: they are used up.
    pub(crate) fn acknowledge(mut self) {
        self.turns.own = 0;
        if !self.turns.taken.is_empty() {
            lock(&self.shared.done).append(&mut self.turns.taken);
            self.shared.outbox.notify_one();
        }
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        lock(&self.shared.hand).join(&mut self.turns);
    }
}

/// Says that nothing is wanted any more, when it is dropped.
struct NobodyWaits<'a>(&'a watch::Sender<usize>);

impl Drop for NobodyWaits<'_> {
    fn drop(&mut self) {
        self.0.send_replace(0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
