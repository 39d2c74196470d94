//! Leases that a Kubernetes API keeps, as objects of the kind `Lease` (`coordination.k8s.io/v1`), by client-go's algorithm.
//!
//! - Whoever replaces the object in the version that it has read holds the lease: of two who try at once one is refused.
//! - A waiter takes it when it was handed back, or when it has itself seen it unchanged for as long as it says that it
//!   lasts, by its own monotonic clock. The times that are written in it are for people.
//! - A holder that could not renew it for [`Pace::give_up`], counted from when the last renewal that succeeded was sent, has
//!   lost it, whatever is answered later. That is before anybody else takes it.
//! - `leaseTransitions` is the term. It grows with each taking, also by the one who had it before.
//! - Handed back, it names nobody, and is taken at the next look.
//!
//! A lease that somebody deletes is lost to its holder. Only those who remember it begin it anew above the terms that it had.

mod keep;
mod word;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{Api, Client};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Counts, Held, Leases, Standing};
use crate::failure::{Class, Classify, Failure, Reason};
use crate::{Clock, Tasks, chance};

/// How long leases last, and how often they are looked at. `renew` < `give_up` < `duration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// A holder's lease is taken when its waiter has seen it unchanged for so long. Whole seconds.
    pub duration: Duration,
    /// A holder that could not renew for so long stops.
    pub give_up: Duration,
    /// Between two renewals; and, with up to a fifth more, between two looks at one that is wanted.
    pub renew: Duration,
}

impl Default for Pace {
    /// client-go's.
    fn default() -> Self {
        Self { duration: Duration::from_secs(15), give_up: Duration::from_secs(10), renew: Duration::from_secs(2) }
    }
}

/// See the module. A lease's object has its name, with `.` for `/`.
#[derive(Debug)]
pub struct KubernetesLeases(Arc<Inner>);

struct Inner {
    api: Api<Lease>,
    /// This process among all that there ever were.
    holder: String,
    pace: Pace,
    clock: Clock,
    tasks: Tasks,
    places: Mutex<BTreeMap<&'static str, Arc<Place>>>,
    counts: Mutex<Counts>,
}

/// A lease as this process knows it.
struct Place {
    name: &'static str,
    /// Within the process one holds it at a time.
    free: Arc<Semaphore>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The newest term that anybody was seen to have.
    newest: u64,
    /// The newest term that this process had, and since when.
    term: u64,
    began: Option<Instant>,
    held: bool,
    /// What somebody else wrote, and since when it is seen unchanged.
    seen: Option<(LeaseSpec, Instant)>,
}

/// A lease that was taken.
struct Taken {
    /// As it was answered.
    lease: Lease,
    term: u64,
    /// When it was asked for.
    sent: Instant,
}

impl KubernetesLeases {
    /// Leases in a namespace; `name` is what people know this process by. The tasks end once all that is held was handed back.
    pub fn new(client: Client, namespace: &str, name: &str, pace: Pace, clock: Clock, tasks: Tasks) -> Self {
        // Not to be mistaken for one who had the same name.
        let holder = format!("{name}_{:016x}", rand::random::<u64>());
        let api = Api::namespaced(client, namespace);
        let (places, counts) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { api, holder, pace, clock, tasks, places, counts }))
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("holder", &self.holder).field("pace", &self.pace).finish_non_exhaustive()
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leases for KubernetesLeases {
    fn acquire(&self, name: &'static str) -> BoxFuture<'_, Result<Held, Failure>> {
        async move {
            let place = self.0.place(name);
            let closed = |error| Failure::caused_by(Class::Terminal(Reason::SystemRefused), "wait for a lease", error);
            let permit = place.free.clone().acquire_owned().await.map_err(closed)?;
            let mut silent = false;
            loop {
                match self.0.attempt(&place).await {
                    Ok(Some(taken)) => return Ok(Inner::grant(&self.0, &place, permit, taken)),
                    Ok(None) => silent = false,
                    Err(failure) => {
                        lock(&self.0.counts).failed += 1;
                        if let Class::Terminal(_) = failure.class() {
                            return Err(failure);
                        }
                        if !std::mem::replace(&mut silent, true) {
                            tracing::warn!(lease = name, error = failure.chain(), "a lease cannot be looked at");
                        }
                    }
                }
                sleep(self.0.pace.renew.mul_f64(chance::unit().mul_add(0.2, 1.0))).await;
            }
        }
        .boxed()
    }

    fn standings(&self) -> Vec<Standing> {
        let standing = |(name, place): (&&'static str, &Arc<Place>)| {
            let known = lock(&place.known);
            let began = known.began.map_or(Duration::ZERO, |began| began.elapsed());
            Standing { name, term: known.term, held: known.held, began }
        };
        lock(&self.0.places).iter().map(standing).collect()
    }

    fn counts(&self) -> Counts {
        *lock(&self.0.counts)
    }
}

impl Inner {
    fn place(&self, name: &'static str) -> Arc<Place> {
        let new = || Arc::new(Place { name, free: Arc::new(Semaphore::new(1)), known: Mutex::default() });
        lock(&self.places).entry(name).or_insert_with(new).clone()
    }

    /// Looks at the lease, and takes it if it is free. Nothing when it is not, or somebody else was first.
    async fn attempt(&self, place: &Place) -> Result<Option<Taken>, Failure> {
        let found = self.read(place.name).await?;
        let spec = found.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        if spec.as_ref().is_some_and(|spec| !self.is_free(place, spec)) {
            return Ok(None);
        }
        let seen = spec.as_ref().map_or(0, word::term);
        let term = seen.max(lock(&place.known).newest) + 1;
        let taken = self.take(place.name, found, term).await?;
        if taken.is_some() {
            let mut counts = lock(&self.counts);
            counts.taken += 1;
            let since = lock(&place.known).seen.take().map(|(_, since)| since.elapsed());
            counts.silent += since.unwrap_or_default();
        }
        Ok(taken)
    }

    /// Whether nobody holds what was just read.
    fn is_free(&self, place: &Place, spec: &LeaseSpec) -> bool {
        let now = Instant::now();
        let mut known = lock(&place.known);
        known.newest = known.newest.max(word::term(spec));
        match spec.holder_identity.as_deref() {
            // This process holds nothing: it was not told that it had taken it.
            None | Some("") => return true,
            Some(holder) if holder == self.holder => return true,
            Some(_) => {}
        }
        let since = match &known.seen {
            Some((before, since)) if before == spec => *since,
            _ => {
                known.seen = Some((spec.clone(), now));
                now
            }
        };
        now.duration_since(since) >= word::duration(spec).unwrap_or(self.pace.duration)
    }

    fn grant(this: &Arc<Self>, place: &Arc<Place>, permit: OwnedSemaphorePermit, taken: Taken) -> Held {
        let (name, term) = (place.name, taken.term);
        tracing::info!(lease = name, term, "leads");
        {
            let mut known = lock(&place.known);
            (known.term, known.newest) = (term, term);
            (known.began, known.held) = (Some(taken.sent), true);
        }
        let (lost, done) = (CancellationToken::new(), CancellationToken::new());
        let held = Held::new(name, term, lost.clone(), done.clone().drop_guard());
        let keeping = keep::Keeping { inner: Arc::clone(this), place: Arc::clone(place), taken, lost, done };
        drop(this.tasks.spawn("lease", async move {
            keeping.run().await;
            // Only now may another task of this process have it.
            drop(permit);
        }));
        held
    }
}

#[cfg(test)]
mod tests;
