//! The attempts that this process holds, and the heartbeat that renews their leases.
//!
//! A worker that cannot renew stops before somebody else may begin: an attempt that was not renewed for two thirds of its
//! lease is given up here.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainstay_store::operation::{Attempt, Queue, Renewal};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::policy::Policy;

/// Cancellations are looked for at most this often.
const PACE: Duration = Duration::from_millis(200);

/// One attempt that is held.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    /// It is to end: its worker stops, or it is lost.
    pub(crate) stop: CancellationToken,
    /// It is to end, or its operation is cancelled.
    pub(crate) cancelled: CancellationToken,
    /// Somebody else has it, or may have: nothing may be settled.
    pub(crate) lost: CancellationToken,
}

#[derive(Debug)]
struct Kept {
    hold: Hold,
    renewed: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Held {
    kept: Mutex<HashMap<Attempt, Kept>>,
    let_go: Notify,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<Attempt, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds an attempt that was claimed at `at`, until it is let go; `stop` ends it early.
    pub(crate) fn add(&self, attempt: Attempt, at: Instant, stop: CancellationToken) -> Hold {
        let lost = CancellationToken::new();
        let hold = Hold { cancelled: stop.child_token(), stop, lost };
        self.lock().insert(attempt, Kept { hold: hold.clone(), renewed: at });
        hold
    }

    pub(crate) fn remove(&self, attempt: &Attempt) {
        self.lock().remove(attempt);
        self.let_go.notify_waiters();
    }

    /// Waits until nothing is held.
    async fn emptied(&self) {
        loop {
            let let_go = self.let_go.notified();
            if self.len() == 0 {
                return;
            }
            let_go.await;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn all(&self) -> Vec<Attempt> {
        self.lock().keys().cloned().collect()
    }

    fn heard(&self, attempt: &Attempt, renewal: Renewal, at: Instant) {
        let mut kept = self.lock();
        let Some(kept) = kept.get_mut(attempt) else { return };
        match renewal {
            Renewal::Held => kept.renewed = at,
            Renewal::Cancelled => {
                kept.renewed = at;
                kept.hold.cancelled.cancel();
            }
            Renewal::Lost => kept.hold.give_up(),
        }
    }

    /// Gives up what could not be renewed for so long.
    fn expire(&self, patience: Duration) {
        for (attempt, kept) in self.lock().iter() {
            if kept.renewed.elapsed() >= patience && !kept.hold.lost.is_cancelled() {
                tracing::warn!(operation = %attempt.id, attempt = attempt.number, "an attempt could not be renewed and is given up");
                kept.hold.give_up();
            }
        }
    }

    /// Renews them all, once.
    pub(crate) async fn renew(&self, queue: &dyn Queue, policy: &Policy) {
        let attempts = self.all();
        if attempts.is_empty() {
            return;
        }
        // Counted from before it was asked: the lease cannot end earlier than that.
        let at = Instant::now();
        match timeout(policy.heartbeat(), queue.renew(attempts.clone(), policy.lease)).await {
            Ok(Ok(renewals)) => {
                attempts.iter().zip(renewals).for_each(|(attempt, renewal)| self.heard(attempt, renewal, at));
            }
            Ok(Err(error)) => tracing::warn!(%error, "leases of operations could not be renewed"),
            Err(_) => tracing::warn!("leases of operations could not be renewed in time"),
        }
        self.expire(policy.lease * 2 / 3);
    }
}

impl Hold {
    fn give_up(&self) {
        self.lost.cancel();
        self.stop.cancel();
    }
}

/// Renews until it is told to stop and nothing is held any more.
pub(crate) async fn heartbeat(held: Arc<Held>, queue: Arc<dyn Queue>, policy: Policy, stop: CancellationToken) {
    let mut changes = queue.queue_changes();
    let mut ticks = tokio::time::interval(policy.heartbeat());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let over = async {
        stop.cancelled().await;
        held.emptied().await;
    };
    let mut over = pin!(over);
    loop {
        let renewed = async {
            tokio::select! {
                biased;
                _ = ticks.tick() => {}
                changed = changes.changed() => {
                    if changed.is_err() {
                        ticks.tick().await;
                    }
                    tokio::time::sleep(PACE).await;
                    changes.mark_unchanged();
                }
            }
            held.renew(&*queue, &policy).await;
        };
        // A renewal that is left half-way was asked for, or was not: both will do.
        tokio::select! {
            biased;
            () = &mut over => return,
            () = renewed => {}
        }
    }
}

#[cfg(test)]
mod tests;
