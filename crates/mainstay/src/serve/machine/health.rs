//! `/livez`, `/healthz`, `/readyz` and `/metrics` of a node, which has no API of its own. `/metrics` is read on this machine
//! only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{Method, StatusCode};
use mainstay_node::agent::Handle;
use mainstay_runtime::Tasks;
use mainstay_runtime::duty::{self, Duties};
use tokio_util::sync::CancellationToken;

use crate::serve::probe::{Answer, text};

/// A node that could not renew its lease for so long is not ready.
const LEASE: Duration = Duration::from_secs(mainstay_api::node::LEASE_SECONDS as u64);

/// What is known of this node; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Facts>);

#[derive(Default)]
struct Facts {
    term: AtomicU64,
    linked: AtomicUsize,
    agent: ArcSwapOption<Handle>,
}

impl Seen {
    /// It has this term.
    pub(super) fn begin(&self, term: u64) {
        self.0.term.store(term, Ordering::Relaxed);
    }

    /// Its agent runs.
    pub(super) fn runs(&self, agent: Handle) {
        self.0.agent.store(Some(Arc::new(agent)));
    }

    /// Whether its agent was, and another has taken its place.
    pub(super) fn is_deposed(&self) -> bool {
        self.0.agent.load().as_deref().is_some_and(Handle::is_deposed)
    }

    /// How many replicas of the server can ask it.
    pub(super) fn linked(&self, linked: usize) {
        self.0.linked.store(linked, Ordering::Relaxed);
    }
}

/// Answers questions about health.
#[derive(Clone)]
pub(super) struct Answers {
    seen: Seen,
    duties: Duties,
    tasks: Tasks,
    leaving: CancellationToken,
}

impl Answers {
    /// Of a node that has `leaving` cancelled when it is told to stop, before it does.
    pub(super) const fn new(seen: Seen, duties: Duties, tasks: Tasks, leaving: CancellationToken) -> Self {
        Self { seen, duties, tasks, leaving }
    }

    /// Each dependency of its own, and what is wrong with it.
    fn readiness(&self) -> Vec<(&'static str, Result<(), String>)> {
        let agent = self.seen.0.agent.load();
        let lease = match agent.as_deref() {
            None => Err("it has not started".to_owned()),
            Some(agent) => match agent.renewed() {
                Some(ago) if ago < LEASE => Ok(()),
                Some(ago) => Err(format!("it was not renewed for {} s", ago.as_secs())),
                None => Err("it was not renewed yet".to_owned()),
            },
        };
        let stopping = self.tasks.stopping().is_cancelled();
        let started = if agent.is_some() { Ok(()) } else { Err("it has not started".to_owned()) };
        let shutdown = if stopping { Err("the node is stopping".to_owned()) } else { Ok(()) };
        let leaving = if self.leaving.is_cancelled() { Err("it was told to stop".to_owned()) } else { Ok(()) };
        vec![("leaving", leaving), ("node-agent", started), ("lease", lease), ("shutdown", shutdown)]
    }

    fn metrics(&self) -> String {
        let facts = &self.seen.0;
        let agent = facts.agent.load();
        let silent = agent.as_deref().and_then(Handle::renewed).map_or(0, |ago| ago.as_secs());
        let pods = agent.as_deref().map_or(0, |agent| agent.pods() as u64);
        let execs = agent.as_deref().map_or(0, |agent| agent.execs() as u64);
        let gauges = [
            ("node_term", "The term of this node's agent", facts.term.load(Ordering::Relaxed)),
            (
                "node_linked",
                "Replicas of the server that can reach this node",
                facts.linked.load(Ordering::Relaxed) as u64,
            ),
            ("node_pods", "Pods that this node looks after", pods),
            ("node_execs", "Commands that run in Pods of this node beside their agents", execs),
            ("node_lease_age_seconds", "Since the node's lease was renewed", silent),
        ];
        let gauges = gauges.map(|(name, help, value)| {
            format!("# HELP mainstay_{name} {help}.\n# TYPE mainstay_{name} gauge\nmainstay_{name} {value}\n")
        });
        let seen = self.duties.seen();
        let counter = |name: &str, help: &str, count: fn(&duty::Seen) -> u64| {
            let head = format!("# HELP mainstay_{name} {help}.\n# TYPE mainstay_{name} counter\n");
            let rows = seen
                .iter()
                .map(|(duty, seen)| format!("mainstay_{name}_total{{duty=\"{}\"}} {}\n", duty.name, count(seen)));
            std::iter::once(head).chain(rows).collect::<String>()
        };
        let passes = counter("duty_passes", "Passes of periodic duties that ended", |seen| seen.passes);
        let failures = counter("duty_failures", "Failures of periodic duties", |seen| seen.failures.values().sum());
        [gauges.concat(), passes, failures, "# EOF\n".to_owned()].concat()
    }

    pub(super) fn answer(&self, method: &Method, path: &str, here: bool) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
        }
        match path {
            "/livez" | "/healthz" => text(StatusCode::OK, "ok"),
            "/readyz" => {
                let failed: Vec<String> = self
                    .readiness()
                    .into_iter()
                    .filter_map(|(name, found)| Some(format!("[-]{name} failed: {}\n", found.err()?)))
                    .collect();
                if failed.is_empty() {
                    text(StatusCode::OK, "ok")
                } else {
                    text(StatusCode::SERVICE_UNAVAILABLE, &format!("{}readyz check failed\n", failed.concat()))
                }
            }
            "/metrics" if here => text(StatusCode::OK, &self.metrics()),
            "/metrics" => text(StatusCode::FORBIDDEN, "metrics of a node are read on its machine\n"),
            _ => text(StatusCode::NOT_FOUND, "a node answers /livez, /readyz, /healthz and /metrics\n"),
        }
    }
}
