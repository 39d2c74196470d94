//! What a driver counts; read by whoever serves metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_runtime::{Class, Reason};
use tokio::sync::watch;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something are still awaited.
#[derive(Debug, Default)]
pub struct Awaited(watch::Sender<u64>);

impl Awaited {
    /// One more is awaited.
    pub(crate) fn expect(&self) {
        self.0.send_modify(|left| *left += 1);
    }

    /// One came.
    pub(crate) fn came(&self) {
        self.0.send_modify(|left| *left = left.saturating_sub(1));
    }

    /// Nothing is awaited any more.
    pub(crate) fn none(&self) {
        self.0.send_replace(0);
    }

    /// How many have not come.
    pub fn left(&self) -> u64 {
        *self.0.borrow()
    }

    /// Waits until all have come.
    pub async fn all(&self) {
        // It cannot be closed: the sender is borrowed.
        drop(self.0.subscribe().wait_for(|left| *left == 0).await);
    }
}

/// The counters of one driver.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Events read from watches.
    pub events: Counter,
    /// Events that queued their key.
    pub queued: Counter,
    /// Events of keys that were queued or running already.
    pub coalesced: Counter,
    /// Events that asked for nothing: own writes, and changes during a back-off.
    pub ignored: Counter,
    /// Reconciles begun.
    pub reconciles: Counter,
    /// Effects carried out.
    pub effects: Counter,
    /// Reconciles that lost a race for a write.
    pub conflicts: Counter,
    /// Reconciles that failed in a way that time may heal.
    pub transient: Counter,
    /// Reconciles that failed without an answer.
    pub indeterminate: Counter,
    /// Reconciles that failed until their object changes.
    pub terminal: Counter,
    /// Reconciles that panicked.
    pub panics: Counter,
    /// Full lists read.
    pub lists: Counter,
    /// Watches and lists that failed.
    pub watch_failures: Counter,
    /// First full lists of its watches.
    pub first_lists: Awaited,
    /// Keys that are known.
    pub keys: Gauge,
    /// Keys that are queued now.
    pub waiting: Gauge,
    /// Keys that run now.
    pub running: Gauge,
}

impl Metrics {
    pub(crate) fn failed(&self, class: Class) {
        match class {
            Class::Conflict => self.conflicts.increment(),
            Class::Indeterminate => self.indeterminate.increment(),
            Class::Transient { .. } => self.transient.increment(),
            Class::Terminal(Reason::Panicked) => self.panics.increment(),
            Class::Terminal(_) | Class::Fenced => self.terminal.increment(),
        }
    }

    /// All of them.
    pub fn all(&self) -> [Reading; 16] {
        let counter = |name, help, of: &Counter| Reading { name, help, counter: true, value: of.get() };
        let gauge = |name, help, of: &Gauge| Reading { name, help, counter: false, value: of.get() };
        [
            counter("events", "Events read from watches", &self.events),
            counter("queued", "Events that queued their key", &self.queued),
            counter("coalesced", "Events of keys that were queued or running already", &self.coalesced),
            counter("ignored", "Events that asked for nothing", &self.ignored),
            counter("reconciles", "Reconciles begun", &self.reconciles),
            counter("effects", "Effects carried out", &self.effects),
            counter("conflicts", "Reconciles that lost a race for a write", &self.conflicts),
            counter("transient_failures", "Reconciles that failed in a way that time may heal", &self.transient),
            counter("indeterminate_failures", "Reconciles that failed without an answer", &self.indeterminate),
            counter("terminal_failures", "Reconciles that failed until their object changes", &self.terminal),
            counter("panics", "Reconciles that panicked", &self.panics),
            counter("lists", "Full lists read", &self.lists),
            counter("watch_failures", "Watches and lists that failed", &self.watch_failures),
            gauge("keys", "Keys that are known", &self.keys),
            gauge("waiting", "Keys that are queued now", &self.waiting),
            gauge("running", "Keys that run now", &self.running),
        ]
    }
}

/// One of a driver's counters as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// It only grows.
    pub counter: bool,
    /// Its value.
    pub value: u64,
}
