//! A backend with what keeps it from taking us down: breaker, bulkhead, deadline, retry, and a probe that is no load.
//!
//! One gate for each backend, class of operation and host ([`limits`] has the numbers). All that passes may
//! be repeated: it only looks, or carries its key. A caller who has only so much time says so ([`Resilient::until`]) and does
//! not drop the call: then the gate learns what became of it.

use std::future::Future;
use std::sync::Arc;

use mainstay_runtime::resilience::gates::{Gates, Key};
use mainstay_runtime::resilience::probe::Probe;
use tokio::time::Instant;

use crate::CloudError;
use crate::limits::{self, Class};
use crate::port::{Backend, Receipt, Resource};

/// See the module. Clones share what they know of the backend.
#[derive(Debug, Clone)]
pub struct Resilient<P> {
    port: P,
    gates: Arc<Gates>,
    probe: Arc<Probe<bool>>,
    until: Option<Instant>,
}

impl<P: Backend> Resilient<P> {
    /// `gates` are the process's.
    pub fn new(port: P, gates: Arc<Gates>) -> Self {
        let ping = limits::PING;
        Self { port, gates, probe: Arc::new(Probe::new(ping.fresh, ping.deadline)), until: None }
    }

    /// The same for a caller who waits until then: calls, their repeats and waits for a place end by it.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Self {
        Self { until: Some(deadline), ..self.clone() }
    }

    pub(crate) async fn through<T, F>(
        &self,
        class: &'static Class,
        call: impl Fn(P) -> F + Clone + Send + 'static,
    ) -> Result<T, CloudError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CloudError>> + Send + 'static,
    {
        let key = Key { backend: P::LIMITS.name, class: class.name, host: Arc::clone(self.port.host()) };
        let port = self.port.clone();
        self.gates.of(&key, &class.limits).call_until(self.until, true, move || call(port.clone())).await
    }
}

/// `self.port`'s method of the same name, through the gate of a class. Arguments are given as they were taken: by
/// reference.
macro_rules! through {
    ($self:ident, $class:expr, $method:ident $(, $argument:ident)*) => {{
        $(let $argument = $argument.to_owned();)*
        $self
            .through($class, move |port| {
                $(let $argument = $argument.clone();)*
                async move { port.$method($(&$argument),*).await }
            })
            .await
    }};
}
pub(crate) use through;

impl<P: Backend> Backend for Resilient<P> {
    const LIMITS: &'static limits::Backend = P::LIMITS;

    fn host(&self) -> &Arc<str> {
        self.port.host()
    }

    async fn find(&self, operation: &str, step: &str) -> Result<Option<Receipt>, CloudError> {
        through!(self, P::LIMITS.read, find, operation, step)
    }

    async fn look(&self, kind: &str, name: &str) -> Result<Option<Resource>, CloudError> {
        through!(self, P::LIMITS.read, look, kind, name)
    }

    async fn list(&self) -> Result<Vec<Resource>, CloudError> {
        through!(self, P::LIMITS.read, list)
    }

    /// Through no gate: one look at a time, its answer shared and remembered.
    async fn ping(&self) -> Result<(), CloudError> {
        let seen = self.probe.ask(|| async { self.port.ping().await.is_ok() }).await;
        seen.unwrap_or_default().then_some(()).ok_or(CloudError::Unwell)
    }
}
