//! What workers count.

use std::time::Duration;

use mainstay_store::operation::State;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Labels: handlers are a closed set, unknown ones are `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    handler: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByHandler {
    handler: &'static str,
}

/// The counters of one process's workers; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    ended: Family<Ended, Counter>,
    duration: Family<ByHandler, Histogram>,
    wait: Histogram,
    running: Gauge,
    fenced: Counter,
    settle_retries: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let spans = || Histogram::new([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0]);
        Self {
            ended: Family::default(),
            duration: Family::new_with_constructor(spans),
            wait: Histogram::new([0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0]),
            running: Gauge::default(),
            fenced: Counter::default(),
            settle_retries: Counter::default(),
        }
    }
}

impl Metrics {
    /// Adds them to what is served as `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        let ended = self.ended.clone();
        registry.register("operation_attempts", "Attempts at operations, by what came of them", ended);
        let duration = self.duration.clone();
        registry.register("operation_attempt_duration_seconds", "How long attempts took", duration);
        let wait = self.wait.clone();
        registry.register(
            "operation_wait_seconds",
            "From when an operation could be claimed to the start of its attempt",
            wait,
        );
        let running = self.running.clone();
        registry.register("operation_attempts_running", "Attempts under way in this process", running);
        let fenced = "Attempts whose outcome was refused: somebody else had the operation";
        registry.register("operation_attempts_fenced", fenced, self.fenced.clone());
        let retries = "Times that an outcome could not be stored at once";
        registry.register("operation_settle_retries", retries, self.settle_retries.clone());
    }

    pub(crate) fn began(&self, waited: Duration) {
        self.running.inc();
        self.wait.observe(waited.as_secs_f64());
    }

    pub(crate) fn over(&self, handler: Option<&'static str>, took: Duration) {
        self.running.dec();
        self.duration.get_or_create(&ByHandler { handler: handler.unwrap_or("unknown") }).observe(took.as_secs_f64());
    }

    pub(crate) fn came(&self, handler: Option<&'static str>, outcome: &'static str) {
        self.ended.get_or_create(&Ended { handler: handler.unwrap_or("unknown"), outcome }).inc();
    }

    pub(crate) fn fenced(&self) {
        self.fenced.inc();
    }

    pub(crate) fn settle_again(&self) {
        self.settle_retries.inc();
    }

    /// Attempts under way in this process.
    pub fn running(&self) -> i64 {
        self.running.get()
    }

    /// Outcomes that were refused, since somebody else had the operation.
    pub fn refused(&self) -> u64 {
        self.fenced.get()
    }
}

pub(crate) const fn outcome_of(state: State) -> &'static str {
    match state {
        State::Succeeded => "succeeded",
        State::Cancelled => "cancelled",
        _ => "dead",
    }
}
