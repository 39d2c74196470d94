//! What the server counts, in OpenMetrics' text format. Labels come from closed sets: verbs, registered resources, codes,
//! names of controllers.

mod duties;
mod figures;
mod gates;
mod nodes;
mod queue;

use std::sync::{Arc, OnceLock};

use http::StatusCode;
use mainstay_runtime::duty::Duties;
use mainstay_runtime::resilience::gates::Gates;
use mainstay_store::Store;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::catalog::Entry;
use crate::request::Verb;
use figures::Collected;

pub use figures::{Figure, Figures, Labels, Value};
pub(crate) use nodes::of_nodes;
pub(crate) use queue::of_queue;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requests {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Latency {
    verb: &'static str,
}

/// The counters of one server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Requests, Counter>,
    latency: Family<Latency, Histogram>,
    panics: Counter,
    connections_refused: Counter,
    fenced_writes: Counter,
    in_flight: Gauge,
    streams: Gauge,
    others: Arc<OnceLock<Arc<dyn Figures>>>,
    gates: Arc<OnceLock<Arc<Gates>>>,
}

/// One request under observation.
#[derive(Debug)]
pub(crate) struct Observation {
    in_flight: Gauge,
    start: Instant,
    seen: (&'static str, &'static str, &'static str),
}

impl Observation {
    /// What the request turned out to be.
    pub(crate) fn set(&mut self, verb: Verb, entry: Option<&Arc<Entry>>) {
        let (group, resource) = entry.map_or(("", ""), |entry| (entry.kind.group, entry.kind.plural));
        self.seen = (verb.as_str(), group, resource);
    }
}

impl Observation {
    /// What it is called in a trace: `VERB RESOURCE`.
    pub(crate) fn name(&self) -> String {
        let (verb, group, resource) = self.seen;
        match (group, resource) {
            (_, "") => verb.to_owned(),
            ("", resource) => format!("{verb} {resource}"),
            (group, resource) => format!("{verb} {resource}.{group}"),
        }
    }
}

/// A request whose caller went away is over, too.
impl Drop for Observation {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

/// A registry to count in: all names begin with `mainstay_`.
pub fn registry() -> Registry {
    Registry::with_prefix("mainstay")
}

fn latencies() -> Histogram {
    Histogram::new([0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0])
}

impl Metrics {
    /// No requests yet.
    pub(crate) fn new(mut registry: Registry, store: Arc<dyn Store>, duties: Duties, version: &'static str) -> Self {
        let requests = Family::<Requests, Counter>::default();
        registry.register("requests", "Requests answered", requests.clone());
        let latency = Family::<Latency, Histogram>::new_with_constructor(latencies);
        registry.register("request_duration_seconds", "Time to the head of the response", latency.clone());
        let panics = Counter::default();
        registry.register("request_panics", "Requests that panicked", panics.clone());
        let connections_refused = Counter::default();
        registry.register("connections_refused", "Connections closed for being too many", connections_refused.clone());
        let fenced_writes = Counter::default();
        let fenced = "Writes of leaders that were refused because another leads";
        registry.register("fenced_writes", fenced, fenced_writes.clone());
        let (in_flight, streams) = (Gauge::default(), Gauge::default());
        registry.register("requests_in_flight", "Requests being answered", in_flight.clone());
        registry.register("open_streams", "Open watches and followed streams", streams.clone());
        registry.register_collector(Box::new(Collected::new(move || figures::of_store(&*store))));
        registry.register_collector(Box::new(Collected::new(move || figures::of_build(version))));
        registry.register_collector(Box::new(Collected::new(move || duties::of_duties(&duties))));
        let others: Arc<OnceLock<Arc<dyn Figures>>> = Arc::default();
        let read = others.clone();
        registry.register_collector(Box::new(Collected::new(move || {
            read.get().map(|figures| figures.read()).unwrap_or_default()
        })));
        let gates: Arc<OnceLock<Arc<Gates>>> = Arc::default();
        let read = gates.clone();
        // Shown also while nobody calls a backend, so that what is asked of them is known to be there.
        let none = Gates::new(0);
        registry.register_collector(Box::new(Collected::new(move || {
            gates::of_gates(read.get().map_or(&none, |gates| gates))
        })));
        Self {
            registry,
            requests,
            latency,
            panics,
            connections_refused,
            fenced_writes,
            in_flight,
            streams,
            others,
            gates,
        }
    }

    /// Adds what another part of the process counts; `false` when one was added before.
    pub(crate) fn add(&self, figures: Arc<dyn Figures>) -> bool {
        self.others.set(figures).is_ok()
    }

    /// What stands in front of backends; `false` when it was said before.
    pub(crate) fn set_gates(&self, gates: Arc<Gates>) -> bool {
        self.gates.set(gates).is_ok()
    }

    pub(crate) fn gates(&self) -> Option<&Arc<Gates>> {
        self.gates.get()
    }

    /// A request has come in.
    pub(crate) fn begin(&self) -> Observation {
        self.in_flight.inc();
        Observation { in_flight: self.in_flight.clone(), start: Instant::now(), seen: ("other", "", "") }
    }

    /// It was answered.
    pub(crate) fn end(&self, observation: &Observation, code: StatusCode) {
        let (verb, group, resource) = observation.seen;
        self.requests.get_or_create(&Requests { verb, group, resource, code: code.as_u16() }).inc();
        self.latency.get_or_create(&Latency { verb }).observe(observation.start.elapsed().as_secs_f64());
    }

    /// A request panicked.
    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// A connection was closed, as there were too many.
    pub(crate) fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// A write of a leader was refused: another leads.
    pub(crate) fn fenced(&self) {
        self.fenced_writes.inc();
    }

    /// The text that Prometheus reads; `asked` is what had to be asked for.
    pub(crate) fn render(&self, open_streams: usize, asked: Vec<Figure>) -> String {
        self.streams.set(i64::try_from(open_streams).unwrap_or(i64::MAX));
        let mut others = registry();
        others.register_collector(Box::new(Collected::new(move || asked.clone())));
        let mut text = String::new();
        let encoded = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &others))
            .and_then(|()| encode_eof(&mut text));
        if let Err(error) = encoded {
            tracing::error!(%error, "the metrics cannot be written");
        }
        text
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}
