//! The controllers: one driver, and a file for each reconciler.
//!
//! Start with [`reconcile`], which says what a reconciler is, then [`driver`], which says when it runs. Controllers
//! are ordinary clients of the API: they hold a `kube::Client` and nothing else of the server.

pub mod binding;
pub mod driver;
pub mod event;
pub mod garbage;
mod kinds;
mod lead;
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

use driver::{Driver, Metrics};
use lead::lead;
pub use lead::{Clients, Office};
pub use objects::Objects;
pub use reconcile::{Effect, FencingToken, Next, Plan, Reconciler};

/// Starts every controller where its lease is held, each through the client of its own identity, and returns their counters
/// by name. Needs a Tokio runtime. The order does not matter: each lists and watches until it succeeds.
pub fn start(office: &Office, registry: &Arc<Registry>) -> Vec<(&'static str, Arc<Metrics>)> {
    let (kinds, named) = (Arc::clone(registry), Arc::clone(registry));
    let clock = || office.clock.clone();
    let (of_sessions, of_events, of_tokens, serves) = (clock(), clock(), clock(), office.serves);
    vec![
        lead(office, garbage::NAME, "garbage-collector", move |around, client, metrics| {
            garbage::Collector::new(client, &kinds, metrics).start(around);
        }),
        run(office, "session-controller", move |client| session::driver(client, &of_sessions)),
        run(office, "session-controller", pod::driver),
        run(office, "project-controller", project::driver),
        run(office, "namespace-controller", move |client| namespace::driver(client, &named)),
        lead(office, node::NodeReconciler::NAME, "node-controller", move |around, client, metrics| {
            node::driver(client, around, serves).counting(metrics).start(around);
        }),
        run(office, "node-controller", binding::driver),
        run(office, "event-controller", move |client| event::driver(client, &of_events)),
        run(office, "token-controller", move |client| token::driver(client, &of_tokens)),
    ]
}

fn run<R: Reconciler>(
    office: &Office,
    account: &'static str,
    driver: impl Fn(Client) -> Driver<R> + Send + Sync + 'static,
) -> (&'static str, Arc<Metrics>) {
    lead(office, R::NAME, account, move |around, client, metrics| driver(client).counting(metrics).start(around))
}
