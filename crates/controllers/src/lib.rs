//! The controllers: one driver, and a file for each reconciler.
//!
//! Start with [`reconcile`], which says what a reconciler is, then [`driver`], which says when it runs. Controllers
//! are ordinary clients of the API: they hold a `kube::Client` and nothing else of the server.

pub mod binding;
pub mod driver;
pub mod event;
pub mod garbage;
mod kinds;
pub mod namespace;
pub mod node;
pub mod objects;
pub mod operation;
mod placing;
pub mod pod;
pub mod project;
pub mod reconcile;
pub mod session;
pub mod token;

use std::sync::Arc;

use kube::Client;
use mainstay_api::Registry;

use driver::{Driver, Metrics, Surroundings};
pub use objects::Objects;
pub use reconcile::{Effect, FencingToken, Next, Plan, Reconciler};

/// Starts every controller, each through the client of its own identity, and returns their counters by name.
///
/// `clients` gives the client of a service account in `mainstay-system`, such as `session-controller`. Needs a Tokio
/// runtime. The order does not matter: each lists and watches until it succeeds.
pub fn start(
    clients: impl Fn(&str) -> Client,
    surroundings: &Surroundings,
    registry: &Registry,
) -> Vec<(&'static str, Arc<Metrics>)> {
    let collector = garbage::Collector::new(clients("garbage-collector"), registry);
    let collected = (garbage::NAME, collector.metrics());
    collector.start(surroundings);
    vec![
        collected,
        run(session::driver(clients("session-controller"), &surroundings.clock), surroundings),
        run(pod::driver(clients("session-controller")), surroundings),
        run(project::driver(clients("project-controller")), surroundings),
        run(namespace::driver(clients("namespace-controller"), registry), surroundings),
        run(node::driver(clients("node-controller"), &surroundings.clock), surroundings),
        run(binding::driver(clients("node-controller")), surroundings),
        run(event::driver(clients("event-controller"), &surroundings.clock), surroundings),
        run(token::driver(clients("token-controller"), &surroundings.clock), surroundings),
    ]
}

fn run<R: Reconciler>(driver: Driver<R>, surroundings: &Surroundings) -> (&'static str, Arc<Metrics>) {
    let metrics = driver.metrics();
    driver.start(surroundings);
    (R::NAME, metrics)
}
