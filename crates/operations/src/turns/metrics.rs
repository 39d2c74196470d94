//! What is counted of turns.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
}

/// The counters of one process's turns; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    turns: Family<What, Counter>,
    away: Gauge,
    failures: Counter,
}

impl Default for Metrics {
    /// All that can be counted is served, from 0.
    fn default() -> Self {
        let turns = Family::<What, Counter>::default();
        for what in ["own", "told", "untold", "taken", "taken_over", "dead"] {
            drop(turns.get_or_create(&What { what }));
        }
        Self { turns, away: Gauge::default(), failures: Counter::default() }
    }
}

impl Metrics {
    /// Adds them to what is served as `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        let turns = "Turns of operations: own (of this process, told to nobody); over Redis told, untold (it was away), taken, taken_over, dead";
        registry.register("operation_turns", turns, self.turns.clone());
        let away = "1 while no turns come from the Redis that is named, and the store's own hints are relied on";
        registry.register("operation_turns_away", away, self.away.clone());
        let failures = "Calls of Redis that failed";
        registry.register("operation_turns_failures", failures, self.failures.clone());
    }

    pub(super) fn count(&self, what: &'static str, turns: u64) {
        self.turns.get_or_create(&What { what }).inc_by(turns);
    }

    #[cfg(test)]
    pub(super) fn told(&self) -> u64 {
        self.turns.get_or_create(&What { what: "told" }).get()
    }

    pub(super) fn away(&self, away: bool) {
        self.away.set(away.into());
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }
}
