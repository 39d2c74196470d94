//! The driver: watches wake keys, a queue orders them, and each reconcile runs as a task of its own.
//!
//! *Flow.* A watch per kind turns events into wakes ([`watch`]); the queue decides what may run and when ([`queue`]);
//! an attempt reads, plans and applies ([`attempt`]); its outcome goes back to the queue.
//!
//! *Guarantees.* No key is lost: it is tried again until it succeeds or its object is gone. One attempt per key at a
//! time. An attempt is a tracked task that nobody aborts: at shutdown it finishes or meets its own deadline. A panic
//! is one key's failure. The queue holds a key at most once, so its size is bounded by the number of objects.

mod attempt;
mod index;
mod metrics;
mod queue;
mod report;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use mainstay_runtime::{Clock, Tasks, bounded_client};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::reconcile::{FencingToken, Reconciler};
use attempt::{Attempt, Done, Ended};
pub use metrics::{Counter, Metrics};
pub use queue::{Moment, Outcome, Queue, Version, Wake, Woken};
use watch::{Head, Role};
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
pub(crate) struct Shared {
    name: &'static str,
    queue: Mutex<Queue<Key>>,
    work: Notify,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn with_queue<T>(&self, work: impl FnOnce(&mut Queue<Key>) -> T) -> T {
        // The queue is consistent between its calls; a panic within one is a bug that tests would show.
        work(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self, key: &Key, wake: Wake, version: Option<Version>) {
        self.count(self.with_queue(|queue| queue.wake(key, wake, version)));
    }

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

    fn count(&self, woken: Woken) {
        match woken {
            Woken::Queued => {
                self.metrics.queued.increment();
                self.work.notify_one();
            }
            Woken::Coalesced => self.metrics.coalesced.increment(),
            Woken::Ignored => self.metrics.ignored.increment(),
        }
    }
}

/// A watch that is yet to be started.
type Watch = Box<dyn FnOnce(Arc<Shared>, &Tasks) + Send>;

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
        let watches = vec![watch_of::<R::Object>(&client, watcher::Config::default(), Role::Primary)];
        Self { reconciler: Arc::new(reconciler), client, watches, metrics: Arc::default() }
    }

    /// Changes of objects of this kind wake the keys that `map` names.
    #[must_use]
    pub fn related<K>(mut self, map: Mapping) -> Self
    where
        K: Resource<DynamicType = ()> + Clone + fmt::Debug + 'static,
    {
        self.watches.push(watch_of::<K>(&self.client, watcher::Config::default(), Role::Related(map)));
        self
    }

    /// The counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Runs until told to stop, or until this control plane's term is over. An essential task of the process.
    pub fn start(self, surroundings: &Surroundings) {
        let shared = Arc::new(Shared {
            name: R::NAME,
            queue: Mutex::new(Queue::new(R::CONCURRENCY)),
            work: Notify::new(),
            metrics: self.metrics,
        });
        for start in self.watches {
            start(Arc::clone(&shared), &surroundings.tasks);
        }
        let attempt = Attempt::new(self.reconciler, self.client, surroundings, Arc::clone(&shared.metrics));
        let tasks = surroundings.tasks.clone();
        drop(surroundings.tasks.essential("driver", |stop| run(shared, attempt, tasks, stop)));
    }
}

fn watch_of<K>(client: &Client, config: watcher::Config, role: Role) -> Watch
where
    K: Resource<DynamicType = ()> + Clone + fmt::Debug + 'static,
{
    let api = Api::<Head<K>>::all_with(bounded_client(client.clone()), &());
    Box::new(move |shared, tasks| {
        drop(tasks.essential("watch", |stop| watch::run(api, config, role, shared, stop)));
    })
}

/// A finished attempt, or the panic of one.
type Finished = (Key, Result<Ended, tokio::task::JoinError>);

async fn run<R: Reconciler>(shared: Arc<Shared>, attempt: Attempt<R>, tasks: Tasks, stop: CancellationToken) {
    let attempt = Arc::new(attempt);
    let began = Instant::now();
    let mut running = FuturesUnordered::new();
    loop {
        let due = shared.with_queue(|queue| {
            queue.tick(began.elapsed());
            queue.next_due()
        });
        while let Some((key, failures)) = shared.with_queue(|queue| {
            let key = queue.start()?;
            let failures = queue.failures(&key);
            Some((key, failures))
        }) {
            shared.metrics.reconciles.increment();
            let work = Arc::clone(&attempt).run(key.clone(), failures);
            let handle = tasks.spawn("reconcile", work);
            running.push(async move { (key, handle.await) });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(finished) = running.next(), if !running.is_empty() => {
                if !conclude::<R>(&shared, finished, began.elapsed()) {
                    tracing::error!(controller = R::NAME, "this control plane's term is over");
                    return;
                }
            }
            () = shared.work.notified() => {}
            () = until(began, due) => {}
        }
    }
}

/// Hands an attempt's end to the queue; `false` when this control plane's term is over.
fn conclude<R: Reconciler>(shared: &Shared, (key, result): Finished, now: Duration) -> bool {
    let (outcome, done) = match result {
        Ok(Ended::Fenced) => return false,
        Ok(Ended::With { outcome, done }) => (outcome, done),
        Err(error) => {
            // Its text went to standard error when it panicked.
            shared.metrics.panics.increment();
            tracing::error!(controller = R::NAME, %key, %error, "reconcile panicked");
            (Outcome::Failed(None), Done::default())
        }
    };
    shared.with_queue(|queue| queue.finish(&key, outcome, &done.written, now, rand::random()));
    for other in &done.wakes {
        shared.wake(other, Wake::Urgent, None);
    }
    true
}

async fn until(began: Instant, due: Option<Moment>) {
    match due {
        Some(due) => tokio::time::sleep_until(began + due).await,
        None => std::future::pending().await,
    }
}
