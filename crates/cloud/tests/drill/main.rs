//! The adapters against the real drill-backend, a process of its own.
//!
//! Where a call is to be given up, time is made to pass once the process has the call: nobody waits for two minutes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod classes;
mod gates;
mod handlers;
mod ports;

use std::future::Future;
use std::sync::Arc;

use mainstay_cloud::drill::{Area, Drill};
use mainstay_cloud::port::Instance;
use mainstay_cloud::{CloudError, Resilient, limits};
use mainstay_runtime::client::{Http, Trust};
use mainstay_runtime::operation::EffectKey;
use mainstay_runtime::resilience::gates::Gates;
use mainstay_testkit::drill_backend::DrillBackend;

struct World {
    backend: DrillBackend,
    gates: Arc<Gates>,
}

impl World {
    fn new() -> Self {
        Self { backend: DrillBackend::start().unwrap(), gates: Arc::new(Gates::new(64)) }
    }

    /// Without gates.
    fn bare<A: Area>(&self) -> Drill<A> {
        Drill::new(http(), &self.backend.url()).unwrap()
    }

    fn gated<A: Area>(&self) -> Resilient<Drill<A>> {
        Resilient::new(self.bare(), Arc::clone(&self.gates))
    }

    /// State, calls inside and calls that wait, of a gate.
    fn gate(&self, backend: &str, class: &str) -> (&'static str, usize, usize) {
        let views = self.gates.view();
        let host = self.backend.address().to_string();
        let is = |key: &mainstay_runtime::resilience::gates::Key| {
            (key.backend, key.class, &*key.host) == (backend, class, host.as_str())
        };
        let view = views.iter().find(|view| is(&view.key)).unwrap();
        (view.state.as_str(), view.inside, view.waiting)
    }
}

fn http() -> Http {
    Http::new(Trust::Only(Arc::new(rustls::RootCertStore::empty())), limits::MOST_ANSWER).unwrap()
}

fn key(step: &str, token: u64) -> EffectKey {
    EffectKey { operation: "o".into(), step: step.into(), token }
}

fn instance() -> Instance {
    Instance { image: "web".into(), cpu_millis: 500, memory_bytes: 1 << 28, env: [("A".into(), "b".into())].into() }
}

/// Lets time pass for as long as `waiting` waits for nothing else.
async fn skip<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::pause();
    let outcome = waiting.await;
    tokio::time::resume();
    outcome
}

fn denied<T: std::fmt::Debug>(outcome: Result<T, CloudError>) -> mainstay_runtime::resilience::Denied {
    match outcome {
        Err(CloudError::Denied(denied)) => denied,
        other => unreachable!("not refused: {other:?}"),
    }
}
