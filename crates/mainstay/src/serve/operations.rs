//! The workers of this process: all handlers there are, as a table, and how operations are read and written.

use mainstay_apiserver::operation::Objects;
use mainstay_apiserver::{ApiServer, Identity, inprocess};
use mainstay_controllers::project::teardown::Teardown;
use mainstay_operations::{Noop, Policy, Surroundings, Workers};
use mainstay_runtime::operation::{Handler, Handlers};
use std::sync::Arc;
use std::time::Duration;

use super::args::ServeArgs;
use super::{Base, drill};

/// Every handler of operations, with the client of the identity that it acts as.
fn handlers(base: &Base, server: &ApiServer, drill_backend: Option<&str>) -> anyhow::Result<Handlers> {
    let client = |name: &str| inprocess::client(server.clone(), Identity::controller(name), base.tasks.clone());
    let all: [Arc<dyn Handler>; 2] = [Arc::new(Noop), Arc::new(Teardown::new(client("project-controller")))];
    let drilled = drill_backend.map(|url| drill::handlers(url, &base.gates)).transpose()?.unwrap_or_default();
    Ok(Handlers::new(all.into_iter().chain(drilled)))
}

/// Starts the workers.
///
/// # Errors
/// When a backend's client cannot be made.
pub(super) fn start(base: &Base, server: &ApiServer, args: &ServeArgs) -> anyhow::Result<()> {
    Workers::start(Surroundings {
        queue: base.store.clone(),
        ledger: Arc::new(Objects),
        handlers: handlers(base, server, args.drill_backend.as_deref())?,
        clock: base.clock.clone(),
        tasks: base.tasks.clone(),
        policy: Policy { lease: Duration::from_secs(args.operation_lease.into()), ..Policy::default() },
        metrics: base.worked.clone(),
    });
    Ok(())
}
