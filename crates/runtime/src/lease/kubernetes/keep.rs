//! The task that renews a lease for as long as it is held, and hands it back.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Inner, Place, Taken, lock};

/// A lease that is held.
pub(super) struct Keeping {
    pub(super) inner: Arc<Inner>,
    pub(super) place: Arc<Place>,
    pub(super) taken: Taken,
    /// Told when it is not held any more.
    pub(super) lost: CancellationToken,
    /// Its owner is done with it.
    pub(super) done: CancellationToken,
}

/// How a term came to its end.
enum End {
    /// Its owner is done.
    Done,
    /// It could not be renewed in time.
    GivenUp,
    /// Another has it, or it is gone.
    Replaced,
}

impl Keeping {
    /// Returns when the owner is done, and it was handed back if that can be.
    pub(super) async fn run(mut self) {
        let end = self.renewed().await;
        let (name, term) = (self.place.name, self.taken.term);
        match end {
            End::Done => {}
            End::GivenUp => {
                tracing::warn!(lease = name, term, "a lease could not be renewed in time: it is given up");
                lock(&self.inner.counts).given_up += 1;
            }
            End::Replaced => {
                tracing::warn!(lease = name, term, "another process leads");
                lock(&self.inner.counts).replaced += 1;
            }
        }
        lock(&self.place.known).held = false;
        if !matches!(end, End::Done) {
            self.lost.cancel();
        }
        self.done.cancelled().await;
        // Of one that was given up nobody may know yet: others need not wait for it.
        if !matches!(end, End::Replaced)
            && let Err(failure) = self.inner.release(name, term, &mut self.taken.lease).await
        {
            tracing::debug!(lease = name, error = failure.chain(), "a lease was not handed back");
        }
    }

    /// Renews it until its term is over.
    async fn renewed(&mut self) -> End {
        let (name, term, pace) = (self.place.name, self.taken.term, self.inner.pace);
        let mut renewed = self.taken.sent;
        loop {
            let over = renewed + pace.give_up;
            let next = (Instant::now() + pace.renew).min(over);
            tokio::select! {
                biased;
                () = self.done.cancelled() => return End::Done,
                () = sleep_until(next) => {}
            }
            // Frozen meanwhile, it does not renew what it has lost.
            if Instant::now() >= over {
                return End::GivenUp;
            }
            let sent = Instant::now();
            match timeout_at(over, self.inner.renew(name, term, &mut self.taken.lease)).await {
                Ok(Ok(true)) if sent + pace.give_up > Instant::now() => renewed = sent,
                Ok(Ok(true)) | Err(_) => return End::GivenUp,
                Ok(Ok(false)) => return End::Replaced,
                Ok(Err(failure)) => {
                    lock(&self.inner.counts).failed += 1;
                    tracing::debug!(lease = name, term, error = failure.chain(), "a lease was not renewed");
                }
            }
        }
    }
}
