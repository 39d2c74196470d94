//! The workers of a process: they claim, carry out, and say what came of it.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use mainstay_runtime::fault::{self, Point};
use mainstay_runtime::guard::Guard;
use mainstay_runtime::operation::{Handler, Handlers};
use mainstay_runtime::{Class, Classify, Clock, Failure, Reason, Tasks, trace};
use mainstay_store::operation::{Claim, Claimed, Claims, Ledger, Order, Queue, Row, Standing};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use crate::attempt::{Came, Trying};
use crate::held::{Held, Hold, heartbeat};
use crate::journal::{Alone, Journal};
use crate::metrics::Metrics;
use crate::panics::{caught, panicked};
use crate::policy::Policy;
use crate::settling::Settling;
use crate::verdict::{Before, Decision, is_undone, verdict};

/// The pause after a claim, or a settlement, that failed.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);
/// Who has to wait until it can be alone is looked at again after once to twice this.
const ALONE_AGAIN: Duration = Duration::from_secs(1);

/// What workers work with.
#[derive(Clone)]
pub struct Surroundings {
    /// Where operations wait.
    pub queue: Arc<dyn Queue>,
    /// Reads and writes their objects.
    pub ledger: Arc<dyn Ledger>,
    /// Who carries them out.
    pub handlers: Handlers,
    /// What is due.
    pub clock: Clock,
    /// Owns the tasks, and says when to stop.
    pub tasks: Tasks,
    /// The numbers.
    pub policy: Policy,
    /// What is counted.
    pub metrics: Metrics,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings")
            .field("handlers", &self.handlers)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Carries out operations until the tasks are told to stop.
#[derive(Debug)]
pub struct Workers {
    with: Surroundings,
    held: Arc<Held>,
    slots: Arc<Semaphore>,
    /// For those that may have killed their worker: one at a time.
    alone: Arc<Semaphore>,
    /// A slot became free of a project that may have had all it may.
    freed: Notify,
}

impl Workers {
    /// Starts them. When they are told to stop, they claim no more, let each attempt come to the end of its present
    /// effect, and hand back what is left of it.
    pub fn start(with: Surroundings) {
        let workers = Arc::new(Self {
            held: Arc::default(),
            slots: Arc::new(Semaphore::new(with.policy.slots)),
            alone: Arc::new(Semaphore::new(1)),
            freed: Notify::new(),
            with,
        });
        let Surroundings { queue, tasks, policy, .. } = workers.with.clone();
        let held = workers.held.clone();
        drop(tasks.essential("operation heartbeat", |stop| heartbeat(held, queue, policy, stop)));
        drop(tasks.essential("operations", |stop| workers.run(stop)));
    }

    fn now_ms(&self) -> i64 {
        self.with.clock.now().as_millisecond()
    }

    async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.with.queue.queue_changes();
        loop {
            let slot = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                slot = self.slots.clone().acquire_owned() => slot,
            };
            // It is never closed.
            let Ok(slot) = slot else { return };
            changes.mark_unchanged();
            let more = self.claim(slot, &stop).await;
            let Some(patience) = more else { continue };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = changes.changed() => {}
                () = self.freed.notified() => {}
                () = tokio::time::sleep(patience) => {}
            }
        }
    }

    /// Claims for all free slots; gives how long to wait for more, or `None` when there may be more at once.
    async fn claim(self: &Arc<Self>, slot: OwnedSemaphorePermit, stop: &CancellationToken) -> Option<Duration> {
        let mut slots = vec![slot];
        while let Ok(slot) = self.slots.clone().try_acquire_owned() {
            slots.push(slot);
        }
        let policy = &self.with.policy;
        let (at, limit) = (Instant::now(), slots.len());
        let per_lane = if Guard::LaneLimit.holds() { policy.slots_per_lane } else { policy.slots };
        let claim = Claim { limit, per_lane, lease: policy.lease, now_ms: self.now_ms() };
        let Claims { claimed, next_due_ms, next_expiry } = match self.with.queue.claim(claim).await {
            Ok(claims) => claims,
            Err(error) => {
                tracing::warn!(%error, "no operation could be claimed");
                return Some(PAUSE);
            }
        };
        let full = claimed.len() >= limit;
        let (mut begun, mut back) = (Vec::new(), Vec::new());
        for (claimed, slot) in claimed.into_iter().zip(slots) {
            let hold = self.held.add(claimed.attempt.clone(), at, stop.child_token());
            match self.alone(&claimed.standing.row) {
                Ok(alone) => begun.push((claimed, hold, slot, alone)),
                Err(_) => back.push(self.hand_back(claimed, hold)),
            }
        }
        // First: of what the one does to its worker, those that only wait for it are not to be suspected.
        join_all(back).await;
        for (claimed, hold, slot, alone) in begun {
            let (workers, span) =
                (self.clone(), info_span!("operation", id = %claimed.attempt.id, attempt = claimed.attempt.number));
            trace::adopt(&span, || trace::of_object(&claimed.object.body));
            drop(self.with.tasks.spawn("operation", workers.carry_out(claimed, hold, slot, alone).instrument(span)));
        }
        if full {
            return None;
        }
        let due = next_due_ms.map(|due| Duration::from_millis(u64::try_from(due - self.now_ms()).unwrap_or(0)));
        Some([due, next_expiry].into_iter().flatten().fold(policy.look, Duration::min))
    }

    /// Room for an operation: beside all others, or, when its workers were lost again and again, beside no other such.
    fn alone(&self, row: &Row) -> Result<Alone, TryAcquireError> {
        if row.lost < self.with.policy.alone_from {
            return Ok(None);
        }
        self.alone.clone().try_acquire_owned().map(Some)
    }

    /// What may have killed its worker, and has to wait for another such: it is as if nobody had claimed it.
    async fn hand_back(&self, claimed: Claimed, hold: Hold) {
        let Claimed { attempt, object, standing, .. } = claimed;
        let decision = Decision::Unbegun { after: ALONE_AGAIN.mul_f64(1.0 + rand::random::<f64>()) };
        let (with, standing) = (&self.with, &standing);
        let settling = Settling { with, attempt: &attempt, hold: &hold, standing, handler: None, decision: &decision };
        settling.run(object).await;
        self.held.remove(&attempt);
    }

    /// One operation, from its claim to its settlement. Whoever panics, the attempt is let go of.
    async fn carry_out(self: Arc<Self>, claimed: Claimed, hold: Hold, slot: OwnedSemaphorePermit, alone: Alone) {
        let (began, attempt) = (Instant::now(), claimed.attempt.clone());
        self.with.metrics.began(claimed.waited);
        let handler = AssertUnwindSafe(self.carried(claimed, &hold, alone)).catch_unwind().await.unwrap_or_default();
        self.held.remove(&attempt);
        self.with.metrics.over(handler, began.elapsed());
        let lane_may_be_full = self.held.len() + 1 >= self.with.policy.slots_per_lane;
        drop(slot);
        if lane_may_be_full {
            self.freed.notify_one();
        }
    }

    /// Its handler's name, when there is one.
    async fn carried(&self, claimed: Claimed, hold: &Hold, alone: Alone) -> Option<&'static str> {
        let Claimed { attempt, object, standing, .. } = claimed;
        let order = caught("read an operation", || self.with.ledger.order(&object));
        let handler = order.as_ref().ok().and_then(|order| self.with.handlers.get(&order.work.handler)).cloned();
        let max_attempts = order.as_ref().map_or(1, |order| order.max_attempts);
        let mut journal = Journal::new(&*self.with.queue, &attempt, standing.steps.clone(), alone);
        let came = self.attempt(order, handler.as_deref(), &standing, &mut journal, hold).await;
        let (policy, touched) = (&self.with.policy, journal.is_touched());
        let decision = verdict(Before { row: &standing.row, max_attempts, touched, policy }, came, rand::random());
        let standing = Standing { steps: journal.into_rows(), ..standing };
        let handler = handler.map(|handler| handler.name());
        let (with, standing) = (&self.with, &standing);
        Settling { with, attempt: &attempt, hold, standing, handler, decision: &decision }.run(object).await;
        handler
    }

    async fn attempt(
        &self,
        order: Result<Order, Failure>,
        handler: Option<&dyn Handler>,
        standing: &Standing,
        journal: &mut Journal<'_>,
        hold: &Hold,
    ) -> Came {
        let row = &standing.row;
        if let Err(injected) = fault::hit(Point::OperationAfterClaim) {
            return Came::Failed(Failure::caused_by(injected.class(), "begin the attempt", injected));
        }
        if row.cancelled && !journal.is_touched() {
            return Came::Undone;
        }
        let policy = &self.with.policy;
        if row.lost >= policy.lost_limit && Guard::LostLimit.holds() {
            let what = format!("{} workers were lost while they carried it out", row.lost);
            return Came::Failed(Failure::new(Class::Terminal(Reason::WorkersLost), what));
        }
        let order = match order {
            Ok(order) => order,
            Err(failure) => return Came::Failed(failure),
        };
        let Some(handler) = handler else {
            let what = format!("there is no handler {:?}", order.work.handler);
            return Came::Failed(Failure::new(Class::Terminal(Reason::UnknownHandler), what));
        };
        let deadline = Instant::now() + order.timeout;
        let (stop, cancelled) = (hold.stop.clone(), hold.cancelled.clone());
        let trying = Trying { handler, work: &order.work, deadline, stop, cancelled };
        let work = async { if is_undone(row) { trying.back(journal).await } else { trying.forward(journal).await } };
        let panicked = |_| Came::Failed(panicked("carry out an operation"));
        let caught = AssertUnwindSafe(work).catch_unwind().map(|came| came.unwrap_or_else(panicked));
        // The last resort: a step that overran all deadlines of its own stays in doubt.
        let late =
            |_| Came::Failed(Failure::new(Class::Indeterminate, "the attempt did not end within spec.timeoutSeconds"));
        timeout_at(deadline + policy.overrun, caught).await.unwrap_or_else(late)
    }
}

#[cfg(test)]
mod tests;
