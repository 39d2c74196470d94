//! What a driver counts; read by whoever serves metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_runtime::Class;

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
            Class::Terminal(_) | Class::Fenced => self.terminal.increment(),
        }
    }

    /// All values by name; the last three are gauges.
    pub fn all(&self) -> [(&'static str, u64); 16] {
        [
            ("events", self.events.get()),
            ("queued", self.queued.get()),
            ("coalesced", self.coalesced.get()),
            ("ignored", self.ignored.get()),
            ("reconciles", self.reconciles.get()),
            ("effects", self.effects.get()),
            ("conflicts", self.conflicts.get()),
            ("transient", self.transient.get()),
            ("indeterminate", self.indeterminate.get()),
            ("terminal", self.terminal.get()),
            ("panics", self.panics.get()),
            ("lists", self.lists.get()),
            ("watch_failures", self.watch_failures.get()),
            ("keys", self.keys.get()),
            ("waiting", self.waiting.get()),
            ("running", self.running.get()),
        ]
    }
}
