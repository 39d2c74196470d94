//! The workers of this process: all handlers there are, as a table, and how operations are read and written.

use mainstay_apiserver::operation::Objects;
use mainstay_apiserver::{ApiServer, Identity, inprocess};
use mainstay_controllers::project::teardown::Teardown;
use mainstay_operations::{Noop, Policy, Surroundings, Workers};
use mainstay_runtime::operation::{Handler, Handlers};
use std::sync::Arc;
use std::time::Duration;

use super::drill;
use super::process::Process;
use super::process::server::Served;

/// Every handler of operations, with the client of the identity that it acts as.
fn handlers(process: &Process, served: &Served, server: &ApiServer) -> anyhow::Result<Handlers> {
    let client = |name: &str| inprocess::client(server.clone(), Identity::controller(name), process.tasks.clone());
    let drill_backend = process.args.drill_backend.as_deref();
    let all: [Arc<dyn Handler>; 2] = [Arc::new(Noop), Arc::new(Teardown::new(client("project-controller")))];
    let drilled = drill_backend.map(|url| drill::handlers(url, &served.gates)).transpose()?.unwrap_or_default();
    Ok(Handlers::new(all.into_iter().chain(drilled)))
}

/// Starts the workers.
///
/// # Errors
/// When a backend's client cannot be made.
pub(super) fn start(process: &Process) -> anyhow::Result<()> {
    let served = process.served()?;
    Workers::start(Surroundings {
        queue: served.store.clone(),
        turns: served.turns.clone(),
        ledger: Arc::new(Objects),
        handlers: handlers(process, served, served.server()?)?,
        clock: process.clock.clone(),
        tasks: process.tasks.clone(),
        policy: Policy { lease: Duration::from_secs(process.args.operation_lease.into()), ..Policy::default() },
        metrics: served.worked.clone(),
    });
    Ok(())
}
