//! The workers of a process: they claim, carry out, and say what came of it.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use mainstay_runtime::fault::{self, Point};
use mainstay_runtime::guard::Guard;
use mainstay_runtime::operation::{Handler, Handlers};
use mainstay_runtime::{Class, Classify, Clock, Failure, Reason, Tasks, trace};
use mainstay_store::operation::{Claim, Claimed, Claims, Ending, Ledger, Order, Queue, Settlement, Standing};
use mainstay_store::{Object, StoreError, Write};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use crate::attempt::{Came, Trying};
use crate::held::{Held, Hold, heartbeat};
use crate::journal::Journal;
use crate::metrics::{Metrics, outcome_of};
use crate::policy::Policy;
use crate::verdict::{Before, Decision, Failed, is_undone, note, verdict};

/// The pause after a claim, or a settlement, that failed.
const PAUSE: Duration = Duration::from_millis(500);

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
    alone: Semaphore,
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
            alone: Semaphore::new(1),
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
        for (claimed, slot) in claimed.into_iter().zip(slots) {
            let hold = self.held.add(claimed.attempt.clone(), at, stop.child_token());
            let (workers, span) =
                (self.clone(), info_span!("operation", id = %claimed.attempt.id, attempt = claimed.attempt.number));
            trace::adopt(&span, || trace::of_object(&claimed.object.body));
            drop(self.with.tasks.spawn("operation", workers.carry_out(claimed, hold, slot).instrument(span)));
        }
        if full {
            return None;
        }
        let due = next_due_ms.map(|due| Duration::from_millis(u64::try_from(due - self.now_ms()).unwrap_or(0)));
        Some([due, next_expiry].into_iter().flatten().fold(policy.look, Duration::min))
    }

    /// One operation, from its claim to its settlement.
    async fn carry_out(self: Arc<Self>, claimed: Claimed, hold: Hold, slot: OwnedSemaphorePermit) {
        let began = Instant::now();
        let Claimed { attempt, object, standing, waited } = claimed;
        self.with.metrics.began(waited);
        let order = self.with.ledger.order(&object);
        let handler = order.as_ref().ok().and_then(|order| self.with.handlers.get(&order.work.handler)).cloned();
        let max_attempts = order.as_ref().map_or(1, |order| order.max_attempts);
        let mut journal = Journal::new(&*self.with.queue, &attempt, standing.steps.clone());
        let came = self.attempt(order, handler.as_deref(), &standing, &mut journal, &hold).await;
        let (policy, touched) = (&self.with.policy, journal.is_touched());
        let decision = verdict(Before { row: &standing.row, max_attempts, touched, policy }, came, rand::random());
        let standing = Standing { steps: journal.into_rows(), ..standing };
        if !hold.lost.is_cancelled() {
            self.settle(&attempt, object, &standing, &decision, &hold, handler.as_deref()).await;
        }
        self.held.remove(&attempt);
        self.with.metrics.over(handler.map(|handler| handler.name()), began.elapsed());
        let lane_may_be_full = self.held.len() + 1 >= policy.slots_per_lane;
        drop(slot);
        if lane_may_be_full {
            self.freed.notify_one();
        }
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
        let _alone = if row.lost >= policy.alone_from { self.alone.acquire().await.ok() } else { None };
        let deadline = Instant::now() + order.timeout;
        let (stop, cancelled) = (hold.stop.clone(), hold.cancelled.clone());
        let trying = Trying { handler, work: &order.work, deadline, stop, cancelled };
        let work = async { if is_undone(row) { trying.back(journal).await } else { trying.forward(journal).await } };
        let panicked = |_| Came::Failed(Failure::new(Class::Terminal(Reason::Panicked), "the handler panicked"));
        let caught = AssertUnwindSafe(work).catch_unwind().map(|came| came.unwrap_or_else(panicked));
        // The last resort: a step that overran all deadlines of its own stays in doubt.
        let late =
            |_| Came::Failed(Failure::new(Class::Indeterminate, "the attempt did not end within spec.timeoutSeconds"));
        timeout_at(deadline + policy.overrun, caught).await.unwrap_or_else(late)
    }

    /// Stores what came of the attempt, however long the store is away, as long as it is ours.
    async fn settle(
        &self,
        attempt: &mainstay_store::operation::Attempt,
        mut object: Arc<Object>,
        standing: &Standing,
        decision: &Decision,
        hold: &Hold,
        handler: Option<&dyn Handler>,
    ) {
        let name = handler.map(Handler::name);
        while !hold.lost.is_cancelled() {
            let settlement = match self.settlement(&object, standing, decision) {
                Ok(settlement) => settlement,
                Err(failure) => {
                    tracing::error!(failure = failure.chain(), "an operation's end cannot be written");
                    return;
                }
            };
            if fault::hit(Point::OperationBeforeSettle).is_err() {
                self.with.metrics.settle_again();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            match self.with.queue.settle(attempt, settlement).await {
                Ok(_) => {
                    fault::hit(Point::OperationAfterSettle).ok();
                    return self.tell(name, &object, decision);
                }
                // It was said before, though that was not heard; or somebody else says it.
                Err(StoreError::Fenced(_)) => return self.with.metrics.fenced(),
                Err(StoreError::Conflict(newer)) => object = newer,
                Err(StoreError::Missing | StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "what came of an operation could not be stored yet");
                    self.with.metrics.settle_again();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        self.with.metrics.fenced();
    }

    fn settlement(&self, object: &Object, standing: &Standing, decision: &Decision) -> Result<Settlement, Failure> {
        let (row, now_ms) = (&standing.row, self.now_ms());
        let later = |after: Duration| now_ms.saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
        Ok(match decision {
            Decision::Retry { after, failure, undoing } => {
                let note = note(row, failure, now_ms);
                let undoing = undoing.then(|| note.clone());
                Settlement::Retry { run_at_ms: later(*after), note, undoing }
            }
            Decision::Later { after } => Settlement::Later { run_at_ms: later(*after) },
            Decision::End { state, failure, said, output } => {
                let note = failure.as_ref().map(|failure| note(row, failure, now_ms));
                let mut standing = standing.clone();
                if let Some(note) = note.clone() {
                    standing.row.failed(note);
                }
                let Failed { reason, message } = said.clone();
                let ending = Ending { state: *state, reason, message, output: output.clone(), standing, at_ms: now_ms };
                let write: Write = self.with.ledger.end(object, &ending)?;
                Settlement::End { state: *state, note, write: Box::new(write) }
            }
        })
    }

    fn tell(&self, handler: Option<&'static str>, object: &Object, decision: &Decision) {
        let operation = &object.key;
        match decision {
            Decision::Retry { failure, after, .. } => {
                self.with.metrics.came(handler, "failed");
                tracing::warn!(%operation, reason = failure.reason, failure = failure.message, ?after, "an operation failed and is tried again");
            }
            Decision::Later { .. } => self.with.metrics.came(handler, "later"),
            Decision::End { state, said, .. } => {
                let outcome = outcome_of(*state);
                self.with.metrics.came(handler, outcome);
                if outcome == "dead" {
                    tracing::error!(%operation, reason = said.reason, failure = said.message, "an operation is a dead letter");
                }
            }
        }
    }
}
