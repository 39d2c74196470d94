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
use mainstay_runtime::{Class, Classify, Clock, Failure, Reason, Tasks, chance, trace};
use mainstay_store::operation::{Claim, Claimed, Claims, Ledger, Order, Queue, Row, Standing};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};
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
use crate::turns::{Hand, Turns};
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
    /// How its replicas tell each other of what can be claimed, where that is not left to the queue's own hints.
    pub turns: Option<Turns>,
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
    /// For those whose ends are being stored: they leave their slots to others meanwhile, as many at most as there are slots.
    endings: Arc<Semaphore>,
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
            endings: Arc::new(Semaphore::new(with.policy.slots)),
            alone: Arc::new(Semaphore::new(1)),
            freed: Notify::new(),
            with,
        });
        let Surroundings { queue, tasks, policy, .. } = workers.with.clone();
        let held = workers.held.clone();
        if let Some(turns) = &workers.with.turns {
            turns.take(&tasks);
        }
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
            let hand = self.with.turns.as_ref().map(Turns::hand);
            let more = self.claim(slot, hand, &stop).await;
            let Some(patience) = more else { continue };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.told(&mut changes) => {}
                () = self.freed.notified() => {}
                () = tokio::time::sleep(patience) => {}
            }
        }
    }

    /// Waits until there may be something to claim that was not there at the last claim. Cancel safe.
    async fn told(&self, changes: &mut watch::Receiver<u64>) {
        let Some(turns) = &self.with.turns else {
            changes.changed().await.ok();
            return;
        };
        let hinted = async {
            changes.changed().await.ok();
            turns.overdue().await;
        };
        tokio::select! {
            () = turns.arrived(self.slots.available_permits()) => {}
            () = hinted => {}
        }
    }

    /// Claims for all free slots; gives how long to wait for more, or `None` when there may be more at once.
    async fn claim(
        self: &Arc<Self>,
        slot: OwnedSemaphorePermit,
        hand: Option<Hand<'_>>,
        stop: &CancellationToken,
    ) -> Option<Duration> {
        // Those that end in this moment are replaced by one claim.
        tokio::task::yield_now().await;
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
        if let Some(hand) = hand {
            hand.acknowledge();
        }
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
        let decision = Decision::Unbegun { after: ALONE_AGAIN.mul_f64(1.0 + chance::unit()) };
        let (with, standing) = (&self.with, &standing);
        let settling = Settling { with, attempt: &attempt, hold: &hold, standing, handler: None, decision: &decision };
        settling.run(object, || ()).await;
        self.held.remove(&attempt);
    }

    /// One operation, from its claim to its settlement. Whoever panics, the attempt is let go of.
    async fn carry_out(self: Arc<Self>, claimed: Claimed, hold: Hold, slot: OwnedSemaphorePermit, alone: Alone) {
        let (began, attempt) = (Instant::now(), claimed.attempt.clone());
        self.with.metrics.began(claimed.waited);
        let mut place = Place { workers: &self, slot: Some(slot), ending: None, tries: 0 };
        let carried = self.carried(claimed, &hold, alone, &mut place);
        let handler = AssertUnwindSafe(carried).catch_unwind().await.unwrap_or_default();
        drop(place);
        self.held.remove(&attempt);
        self.with.metrics.over(handler, began.elapsed());
    }

    /// Its handler's name, when there is one.
    async fn carried(
        &self,
        claimed: Claimed,
        hold: &Hold,
        alone: Alone,
        place: &mut Place<'_>,
    ) -> Option<&'static str> {
        let Claimed { attempt, object, standing, .. } = claimed;
        let order = caught("read an operation", || self.with.ledger.order(&object));
        let handler = order.as_ref().ok().and_then(|order| self.with.handlers.get(&order.work.handler)).cloned();
        let max_attempts = order.as_ref().map_or(1, |order| order.max_attempts);
        let mut journal = Journal::new(&*self.with.queue, &attempt, standing.steps.clone(), alone);
        let came = self.attempt(order, handler.as_deref(), &standing, &mut journal, hold).await;
        let (policy, touched) = (&self.with.policy, journal.is_touched());
        let decision = verdict(Before { row: &standing.row, max_attempts, touched, policy }, came, chance::unit());
        let standing = Standing { steps: journal.into_rows(), ..standing };
        let handler = handler.map(|handler| handler.name());
        let (with, standing) = (&self.with, &standing);
        let settling = Settling { with, attempt: &attempt, hold, standing, handler, decision: &decision };
        settling.run(object, || place.ends()).await;
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

/// One operation's place among those that are under way; whoever waits for one is told when it is free.
struct Place<'a> {
    workers: &'a Workers,
    slot: Option<OwnedSemaphorePermit>,
    ending: Option<OwnedSemaphorePermit>,
    tries: u32,
}

impl Place<'_> {
    /// The store is asked, once more, to enter the end. What is claimed from now on is claimed after that, so at the first
    /// time another operation may begin here: one statement ends these and takes those.
    fn ends(&mut self) {
        self.tries += 1;
        if self.tries == 1
            && let Ok(ending) = self.workers.endings.clone().try_acquire_owned()
        {
            self.ending = Some(ending);
            self.leave();
        }
    }

    fn leave(&mut self) {
        let lane_may_be_full = self.workers.held.len() >= self.workers.with.policy.slots_per_lane;
        drop(self.slot.take());
        if lane_may_be_full {
            self.workers.freed.notify_one();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Its project has one less now, unless that was told before, and came true at once.
        if self.slot.is_some() || self.tries > 1 {
            self.leave();
        }
    }
}

#[cfg(test)]
mod tests;
