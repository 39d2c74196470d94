//! A replica's process: a runtime of its own, which moves only when it is stepped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_operations::{Metrics, Policy, Surroundings, Workers};
use mainstay_runtime::operation::{Handler, Handlers};
use mainstay_runtime::resilience::retry;
use mainstay_runtime::{Clock, Tasks, Timestamp};
use mainstay_store::memory::{Database, MemoryStore, Options};
use mainstay_store::{Queue, Store};
use tokio::runtime::Runtime;

use crate::backend::{Backend, Painter};
use crate::clients::{self, LEASES};
use crate::dice::Dice;
use crate::history::{Broken, History};
use crate::orders::Book;
use crate::terms::Terms;
use crate::watchers::{self, Watcher};
use crate::wire::{Faulty, Weather};

/// What is outside of the replicas.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) seed: u64,
    pub(crate) database: Database,
    pub(crate) backend: Arc<Backend>,
    pub(crate) history: History,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) terms: Terms,
    /// Operations that are to be ordered.
    pub(crate) goal: u64,
    pub(crate) over: AtomicBool,
    pub(crate) starts: AtomicU64,
    pub(crate) broken: Mutex<Option<Broken>>,
}

impl Shared {
    /// Whether clients are to write no more.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(crate) fn fail(&self, promise: &'static str, seen: String) {
        let broken = self.history.broken(promise, seen);
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(broken);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: Arc<str>,
    number: usize,
    pub(crate) wire: Arc<Faulty>,
    /// `None` while it is dead.
    process: Option<Process>,
    /// The world's time that it has come to.
    at_ms: u64,
    pub(crate) frozen: bool,
    /// When it last was dead, or frozen; and when it was that, or the wire was not fair.
    stopped_ms: u64,
    ill_ms: u64,
}

#[derive(Debug)]
struct Process {
    runtime: Runtime,
    _store: Arc<MemoryStore>,
}

impl Host {
    pub(crate) fn new(number: usize, seed: u64) -> Self {
        let name = format!("r{number}").into();
        let wire = Arc::new(Faulty::new(seed, 100 + 10 * number as u64));
        Self { name, number, wire, process: None, at_ms: 0, frozen: false, stopped_ms: 0, ill_ms: 0 }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.process.is_none()
    }

    /// Whether it has been running for so long.
    pub(crate) fn is_awake_since(&self, now_ms: u64, span_ms: u64) -> bool {
        !self.is_dead() && !self.frozen && self.stopped_ms + span_ms < now_ms
    }

    /// Whether nothing has befallen it since then.
    pub(crate) fn is_well_since(&self, since_ms: u64) -> bool {
        self.ill_ms < since_ms
    }

    /// All that it did, and knew, is gone in this moment.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            drop(process.runtime);
        }
        self.frozen = false;
    }

    /// # Errors
    /// When there can be no runtime.
    pub(crate) fn start(&mut self, shared: &Arc<Shared>, now_ms: u64) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let (wire, name, number) = (Arc::clone(&self.wire), Arc::clone(&self.name), self.number);
        let store = runtime.block_on(async { begin(shared, wire, (name, number), now_ms) });
        self.process = Some(Process { runtime, _store: store });
        self.at_ms = now_ms;
        Ok(())
    }

    /// It goes on until this time of the world. One that was frozen wakes up to find its clock there.
    pub(crate) fn step(&mut self, now_ms: u64, tick_ms: u64) {
        let stopped = self.is_dead() || self.frozen;
        if stopped {
            self.stopped_ms = now_ms;
        }
        if stopped || self.wire.weather() != Weather::Fair {
            self.ill_ms = now_ms;
        }
        let Some(process) = self.process.as_ref().filter(|_| !self.frozen) else { return };
        let missed = now_ms - self.at_ms;
        self.at_ms = now_ms;
        process.runtime.block_on(async {
            if missed > tick_ms {
                tokio::time::advance(Duration::from_millis(missed - tick_ms)).await;
            }
            tokio::time::sleep(Duration::from_millis(tick_ms)).await;
        });
    }
}

/// Everything that a process does, from its start.
fn begin(shared: &Arc<Shared>, wire: Arc<Faulty>, (name, number): (Arc<str>, usize), now_ms: u64) -> Arc<MemoryStore> {
    let started = shared.starts.fetch_add(1, Ordering::Relaxed);
    let options = Options { ring_changes: 64, ..Options::new(&*name) };
    let store = MemoryStore::open(shared.database.clone(), wire, options);
    let tasks = Tasks::new();
    let dice = |purpose: u64| Dice::new(shared.seed, 1_000 + started * 16 + purpose);
    let as_store = || Arc::clone(&store) as Arc<dyn Store>;
    for (purpose, lease) in LEASES.into_iter().enumerate() {
        let leading = clients::lead(Arc::clone(shared), as_store(), (Arc::clone(&name), lease), dice(purpose as u64));
        drop(tasks.spawn("lead", leading));
    }
    // A name of its own after each start, so that no value is written twice.
    let client: Arc<str> = format!("{name}.{started}").into();
    drop(tasks.spawn("client", clients::client(Arc::clone(shared), as_store(), client, dice(8))));
    for watcher in 0..shared.watchers.len() {
        drop(tasks.spawn("watcher", watchers::run(Arc::clone(shared), as_store(), (number, watcher))));
    }
    let millis = i64::try_from(now_ms).unwrap_or(i64::MAX);
    let start = Timestamp::from_millisecond(1_900_000_000_000 + millis).unwrap_or(Timestamp::UNIX_EPOCH);
    let handler: Arc<dyn Handler> = Arc::new(Painter(Arc::clone(&shared.backend)));
    let again = retry::Settings { attempts: u32::MAX, base: Duration::from_millis(200), cap: Duration::from_secs(3) };
    Workers::start(Surroundings {
        queue: Arc::clone(&store) as Arc<dyn Queue>,
        turns: None,
        ledger: Arc::new(Book),
        handlers: Handlers::new([handler]),
        clock: Clock::virtual_from(start),
        tasks,
        policy: Policy { slots: 6, slots_per_lane: 4, lost_limit: u32::MAX, again, ..Policy::default() },
        metrics: Metrics::default(),
    });
    store
}
