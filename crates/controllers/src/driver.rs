//! The driver: watches wake keys, a queue orders them, and each reconcile runs as a task of its own.
//!
//! *Flow.* A watch per kind turns events into wakes ([`watch`]); the queue decides what may run and when ([`queue`]);
//! an attempt reads, plans and applies ([`attempt`]); its outcome goes back to the queue.
//!
//! *Guarantees.* No key is lost: it is tried again until it succeeds or its object is gone. One attempt per key at a
//! time. An attempt is a tracked task that nobody aborts: at shutdown it finishes or meets its own deadline. A panic
//! is one key's failure, and told like one. Moments are counted on CLOCK_BOOTTIME, so they come though the machine slept.
//! The queue holds a key at most once, so its size is bounded by the number of objects.

mod attempt;
mod index;
mod metrics;
mod queue;
mod report;
mod watch;

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::{Api, Client, Resource};
use mainstay_runtime::{Clock, KeyBackoff, Tasks, bounded_client};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::reconcile::{FencingToken, Reconciler};
use attempt::Attempt;
pub(crate) use attempt::{Done, Ended, outcome_of};
pub use metrics::{Awaited, Counter, Gauge, Metrics, Reading};
pub use queue::{Moment, Outcome, Queue, Version, Wake, Woken};
use watch::{Feed, Role};
pub(crate) use watch::{Head, run as watch_kind};
pub use watch::{Key, Mapping, Targets, cluster_controller_of, controller_of, namespace_of};

/// What a driver needs of its process.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Owns the tasks.
    pub tasks: Tasks,
    /// Tells plans the time.
    pub clock: Clock,
    /// Goes with every effect.
    pub fence: FencingToken,
}

/// State between a driver's watches and its loop.
pub(crate) struct Shared<K> {
    name: &'static str,
    queue: Mutex<Queue<K>>,
    work: Notify,
    metrics: Arc<Metrics>,
}

impl<K: Clone + Eq + Hash> Shared<K> {
    pub(crate) fn new(name: &'static str, concurrency: usize, metrics: Arc<Metrics>) -> Self {
        Self { name, queue: Mutex::new(Queue::new(concurrency)), work: Notify::new(), metrics }
    }

    fn with_queue<T>(&self, work: impl FnOnce(&mut Queue<K>) -> T) -> T {
        // The queue is consistent between its calls; a panic within one is a bug that tests would show.
        work(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn observe_counts(&self) {
        let (keys, waiting, running) = self.with_queue(|queue| queue.counts());
        self.metrics.keys.set(keys);
        self.metrics.waiting.set(waiting);
        self.metrics.running.set(running);
    }

    pub(crate) fn wake(&self, key: &K, wake: Wake, version: Option<Version>) {
        match self.with_queue(|queue| queue.wake(key, wake, version)) {
            Woken::Queued => {
                self.metrics.queued.increment();
                self.work.notify_one();
            }
            Woken::Coalesced => self.metrics.coalesced.increment(),
            Woken::Ignored => self.metrics.ignored.increment(),
        }
    }
}

impl Shared<Key> {
    fn wake_targets(&self, targets: &Targets, version: Option<Version>) {
        match targets {
            Targets::None => {}
            Targets::Key(key) => self.wake(key, Wake::Urgent, version),
            Targets::Namespace(namespace) => {
                let inside = |key: &Key| key.namespace.as_ref() == Some(namespace);
                for key in self.with_queue(|queue| queue.keys_where(inside)) {
                    self.wake(&key, Wake::Urgent, version);
                }
            }
        }
    }
}

/// A watch that is yet to be started.
type Watch = Box<dyn FnOnce(Arc<Shared<Key>>, &Tasks) + Send>;

/// A reconciler with its watches, ready to run.
pub struct Driver<R: Reconciler> {
    reconciler: Arc<R>,
    client: Client,
    watches: Vec<Watch>,
    metrics: Arc<Metrics>,
}

impl<R: Reconciler> fmt::Debug for Driver<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("name", &R::NAME).field("watches", &self.watches.len()).finish_non_exhaustive()
    }
}

impl<R: Reconciler> Driver<R> {
    /// A driver of this reconciler's kind in all namespaces. Needs a Tokio runtime.
    pub fn new(reconciler: R, client: Client) -> Self {
        let watches = vec![watch_of::<R::Object>(&client, "", Role::Primary)];
        Self { reconciler: Arc::new(reconciler), client, watches, metrics: Arc::default() }
    }

    /// Changes of objects of this kind wake the keys that `map` names.
    #[must_use]
    pub fn related<K>(mut self, map: Mapping) -> Self
    where
        K: Resource<DynamicType = ()> + Clone + fmt::Debug + 'static,
    {
        self.watches.push(watch_of::<K>(&self.client, "", Role::Related(map)));
        self
    }

    /// As [`Driver::related`], of the objects of the kind that this field selector picks.
    #[must_use]
    pub fn related_where<K>(mut self, fields: &'static str, map: Mapping) -> Self
    where
        K: Resource<DynamicType = ()> + Clone + fmt::Debug + 'static,
    {
        self.watches.push(watch_of::<K>(&self.client, fields, Role::Related(map)));
        self
    }

    /// It counts where others of its name have counted.
    #[must_use]
    pub fn counting(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// The counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Runs until told to stop, or until this control plane's term is over. An essential task of the process.
    pub fn start(self, surroundings: &Surroundings) {
        let shared = Arc::new(Shared::new(R::NAME, R::CONCURRENCY, self.metrics));
        for start in self.watches {
            start(Arc::clone(&shared), &surroundings.tasks);
        }
        let metrics = Arc::clone(&shared.metrics);
        let attempt = Arc::new(Attempt::new(self.reconciler, self.client, surroundings, metrics));
        let around = surroundings.clone();
        let work = move |key, backoff| Arc::clone(&attempt).run(key, backoff);
        drop(surroundings.tasks.essential("driver", |stop| run(shared, work, around, stop)));
    }
}

fn watch_of<K>(client: &Client, fields: &'static str, role: Role) -> Watch
where
    K: Resource<DynamicType = ()> + Clone + fmt::Debug + 'static,
{
    let api = Api::<Head<K>>::all_with(bounded_client(client.clone()), &());
    Box::new(move |shared, tasks| {
        let told = (shared.name, Arc::clone(&shared.metrics));
        shared.metrics.first_lists.expect();
        let mut feed = Feed::new(role, shared);
        drop(tasks.essential("watch", |stop| watch::run(api, fields, told, move |event| feed.take(event), stop)));
    })
}

/// A finished attempt, or the panic of one.
type Finished<K> = (K, Result<Ended<K>, tokio::task::JoinError>);

/// Runs keys until told to stop, or until this control plane's term is over.
pub(crate) async fn run<K, W, F>(shared: Arc<Shared<K>>, work: W, around: Surroundings, stop: CancellationToken)
where
    K: Clone + Eq + Hash + fmt::Display + Send + 'static,
    W: Fn(K, KeyBackoff) -> F,
    F: Future<Output = Ended<K>> + Send + 'static,
{
    let Surroundings { tasks, clock, .. } = around;
    let began = clock.since_boot();
    let now = || clock.since_boot().saturating_sub(began);
    let mut running = FuturesUnordered::new();
    loop {
        let due = shared.with_queue(|queue| {
            queue.tick(now());
            queue.next_due()
        });
        while let Some((key, backoff)) = shared.with_queue(|queue| {
            let key = queue.start()?;
            let backoff = queue.failures(&key);
            Some((key, backoff))
        }) {
            shared.metrics.reconciles.increment();
            let handle = tasks.spawn("reconcile", work(key.clone(), backoff));
            running.push(async move { (key, handle.await) });
        }
        shared.observe_counts();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(finished) = running.next(), if !running.is_empty() => {
                if !conclude(&shared, finished, now()) {
                    tracing::error!(controller = shared.name, "this control plane's term is over");
                    return;
                }
            }
            () = shared.work.notified() => {}
            () = until(&clock, due.map(|due| began + due)) => {}
        }
    }
}

/// Hands an attempt's end to the queue; `false` when this control plane's term is over.
fn conclude<K>(shared: &Shared<K>, (key, result): Finished<K>, now: Duration) -> bool
where
    K: Clone + Eq + Hash + fmt::Display,
{
    let (outcome, done) = match result {
        Ok(Ended::Fenced) => return false,
        Ok(Ended::With { outcome, done }) => (outcome, done),
        Err(error) => {
            // Its text went to standard error when it panicked.
            shared.metrics.panics.increment();
            tracing::error!(controller = shared.name, %key, %error, "reconcile panicked");
            (Outcome::Failed(None), Done::default())
        }
    };
    shared.with_queue(|queue| queue.finish(&key, outcome, &done.written, now, rand::random()));
    for other in &done.wakes {
        shared.wake(other, Wake::Urgent, None);
    }
    true
}

async fn until(clock: &Clock, since_boot: Option<Duration>) {
    match since_boot {
        Some(moment) => clock.reach(moment).await,
        None => std::future::pending().await,
    }
}
