//! One attempt at one key: read, plan, apply, and judge how it went.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::{Client, Resource};
use mainstay_runtime::fault::{Point, again, hit};
use mainstay_runtime::{Class, Classify, Doing, Failure, KeyBackoff, Reason, trace};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, trace_span};

use super::metrics::Metrics;
use super::queue::{Outcome, Version};
use super::report::{self, Report};
use super::{Key, Surroundings};
use crate::objects::Objects;
use crate::reconcile::{Next, Plan, Reconciler};

/// How long an attempt may take altogether. Each of its calls has a shorter bound of its own.
const DEADLINE: Duration = Duration::from_mins(1);
/// A key that nothing but a change can help is looked at again this late, in case what changed cannot be watched.
const PARKED_RESYNC: Duration = Duration::from_mins(5);

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Ended<K> {
    /// This control plane's term is over.
    Fenced,
    /// With this outcome, after effects that returned these versions.
    With { outcome: Outcome, done: Done<K> },
}

/// What an attempt's effects tell the driver.
#[derive(Debug)]
pub(crate) struct Done<K> {
    /// The versions that they returned.
    pub(crate) written: Vec<Version>,
    /// Other keys to wake.
    pub(crate) wakes: Vec<K>,
}

impl<K> Default for Done<K> {
    fn default() -> Self {
        Self { written: Vec::new(), wakes: Vec::new() }
    }
}

/// What the queue is told of a failure of this class; `None` when this control plane's term is over.
pub(crate) const fn outcome_of(class: Class) -> Option<Outcome> {
    Some(match class {
        Class::Fenced => return None,
        Class::Conflict => Outcome::Conflict,
        // What met a bug by chance may not meet it again.
        Class::Indeterminate | Class::Terminal(Reason::Panicked) => Outcome::Failed(None),
        Class::Transient { retry_after } => Outcome::Failed(retry_after),
        Class::Terminal(_) => Outcome::Parked(PARKED_RESYNC),
    })
}

/// Everything that attempts of one driver share.
pub(super) struct Attempt<R: Reconciler> {
    reconciler: Arc<R>,
    objects: Objects,
    surroundings: Surroundings,
    metrics: Arc<Metrics>,
}

impl<R: Reconciler> Attempt<R> {
    pub(super) fn new(reconciler: Arc<R>, client: Client, surroundings: &Surroundings, metrics: Arc<Metrics>) -> Self {
        Self { reconciler, objects: Objects::new(client), surroundings: surroundings.clone(), metrics }
    }

    /// Reconciles the key once. `backoff` counts the failures before this one.
    pub(super) async fn run(self: Arc<Self>, key: Key, backoff: KeyBackoff) -> Ended<Key> {
        let mut done = Done::default();
        let object = match caught("read the object", self.read(&key)).await {
            Ok(Some(object)) => object,
            Ok(None) => return Ended::With { outcome: Outcome::Gone, done },
            Err(failure) => return self.failed(&key, None, backoff, &failure, done).await,
        };
        let span = trace_span!("reconcile", controller = R::NAME);
        trace::adopt(&span, || trace::writer_of(object.meta().uid.as_deref()?));
        match caught("reconcile", self.reconcile(&object, &mut done)).instrument(span).await {
            Ok(next) => {
                self.succeeded(&key, &object, &mut done).await;
                let after = match next {
                    Next::AwaitChange => None,
                    Next::After(span) => Some(span),
                };
                Ended::With { outcome: Outcome::Settled(after), done }
            }
            Err(failure) => self.failed(&key, Some(&object), backoff, &failure, done).await,
        }
    }

    async fn read(&self, key: &Key) -> Result<Option<R::Object>, Failure> {
        hit(Point::DriverBeforeObserve).doing("observe")?;
        self.objects.get(key).await
    }

    async fn reconcile(&self, object: &R::Object, done: &mut Done<Key>) -> Result<Next, Failure> {
        let deadline = Instant::now() + DEADLINE;
        let observed = in_time(deadline, "observe", self.reconciler.observe(object)).await?;
        let Plan { actions, next } = R::plan(object, &observed, self.surroundings.clock.now());
        hit(Point::DriverBeforeApply).doing("apply")?;
        for action in actions {
            tracing::debug!(controller = R::NAME, ?action, "apply");
            loop {
                let effect = self.reconciler.apply(object, action.clone(), self.surroundings.fence);
                let effect = in_time(deadline, "apply", effect).await?;
                self.metrics.effects.increment();
                done.written.extend(effect.versions);
                done.wakes.extend(effect.wakes);
                if again(Point::DriverAfterApply).doing("apply")? {
                    continue;
                }
                if let Some(next) = effect.halt {
                    return Ok(next);
                }
                break;
            }
        }
        Ok(next)
    }

    /// Takes back a failure that the object still tells of.
    async fn succeeded(&self, key: &Key, object: &R::Object, done: &mut Done<Key>) {
        if R::REPORTS && report::tells_of_failure(R::conditions(object)) {
            match report::write::<R::Object>(&self.objects, key, &Report::success(self.surroundings.clock.now())).await
            {
                Ok(effect) => done.written.extend(effect.versions),
                // The next reconcile sees the condition again and takes it back then.
                Err(failure) => tracing::warn!(controller = R::NAME, %key, error = failure.chain(), "report success"),
            }
        }
    }

    async fn failed(
        &self,
        key: &Key,
        object: Option<&R::Object>,
        mut backoff: KeyBackoff,
        failure: &Failure,
        mut done: Done<Key>,
    ) -> Ended<Key> {
        let class = failure.class();
        self.metrics.failed(class);
        let Some(outcome) = outcome_of(class) else { return Ended::Fenced };
        backoff.fail(0.0);
        if class == Class::Conflict {
            tracing::debug!(controller = R::NAME, %key, error = failure.chain(), "reconcile lost a race");
        } else {
            let failures = backoff.failures();
            tracing::warn!(controller = R::NAME, %key, %class, failures, error = failure.chain(), "reconcile failed");
        }
        let telling = matches!(outcome, Outcome::Parked(_)) || (class != Class::Conflict && backoff.is_milestone());
        if let Some(object) = object.filter(|_| R::REPORTS && telling) {
            let told = Report::failure(failure, backoff.failures(), self.surroundings.clock.now());
            self.tell(key, object, &told, &mut done).await;
        }
        Ended::With { outcome, done }
    }

    /// Tells people of a failure; what cannot be told now is told with a later one.
    async fn tell(&self, key: &Key, object: &R::Object, told: &Report, done: &mut Done<Key>) {
        match report::write::<R::Object>(&self.objects, key, told).await {
            Ok(effect) => done.written.extend(effect.versions),
            Err(error) => tracing::warn!(controller = R::NAME, %key, error = error.chain(), "report failure"),
        }
        if let Err(error) = report::record::<R::Object>(&self.objects, R::NAME, key, object.meta(), told).await {
            tracing::warn!(controller = R::NAME, %key, error = error.chain(), "report failure");
        }
    }
}

/// A panic is a failure like any other; its words are on standard error, and no business of those who read conditions.
async fn caught<T>(what: &'static str, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let panicked = |_| Err(Failure::new(Class::Terminal(Reason::Panicked), format!("{what}: the code panicked")));
    // What it may have left half done is read anew by the next attempt.
    AssertUnwindSafe(step).catch_unwind().await.unwrap_or_else(panicked)
}

/// A step that is still going on at the deadline is in doubt: its calls have shorter bounds of their own.
async fn in_time<T>(
    deadline: Instant,
    what: &'static str,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match timeout_at(deadline, step).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(Class::Indeterminate, format!("{what} did not end within {DEADLINE:?}"))),
    }
}
