//! The workers of this process: all handlers there are, as a table, and how operations are read and written.

use mainstay_apiserver::operation::{self, Ending};
use mainstay_apiserver::{ApiServer, Identity, inprocess};
use mainstay_controllers::project::teardown::Teardown;
use mainstay_operations::{End, Ledger, Noop, Order, Policy, Surroundings, Workers};
use mainstay_runtime::Failure;
use mainstay_runtime::operation::{Handler, Handlers};
use mainstay_store::{Object, Write};
use std::sync::Arc;

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
pub(super) fn start(base: &Base, server: &ApiServer, drill_backend: Option<&str>) -> anyhow::Result<()> {
    Workers::start(Surroundings {
        queue: base.store.clone(),
        ledger: Arc::new(Objects),
        handlers: handlers(base, server, drill_backend)?,
        clock: base.clock.clone(),
        tasks: base.tasks.clone(),
        policy: Policy::default(),
        metrics: base.worked.clone(),
    });
    Ok(())
}

/// The objects as the API server stores them.
#[derive(Debug)]
struct Objects;

impl Ledger for Objects {
    fn order(&self, object: &Object) -> Result<Order, Failure> {
        let operation::Order { work, max_attempts, timeout } = operation::order(object)?;
        Ok(Order { work, max_attempts, timeout })
    }

    fn end(&self, object: &Object, end: &End) -> Result<Write, Failure> {
        let End { state, reason, message, output, standing, at_ms } = end;
        operation::outcome(object, &Ending { state: *state, reason, message, output, standing, at_ms: *at_ms })
    }
}
