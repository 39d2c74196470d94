//! Whether anything goes on on a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

/// The exchanges of one connection: requests that have come in, until all of their response was handed on.
#[derive(Debug)]
pub(super) struct Activity {
    begun: Instant,
    open: AtomicUsize,
    /// Milliseconds from `begun` to the end of the last exchange, plus one; 0 before there was a request.
    last: AtomicU64,
}

/// One exchange; over when dropped.
#[derive(Debug)]
pub(super) struct Exchange(Arc<Activity>);

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { begun: Instant::now(), open: AtomicUsize::new(0), last: AtomicU64::new(0) })
    }

    /// A request has come in.
    pub(super) fn exchange(self: &Arc<Self>) -> Exchange {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.note();
        Exchange(self.clone())
    }

    fn note(&self) {
        let past = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.last.fetch_max(past + 1, Ordering::Relaxed);
    }

    /// Whether a request has ever come in.
    pub(super) fn was_used(&self) -> bool {
        self.last.load(Ordering::Relaxed) > 0
    }

    /// Ends when nothing has gone on for `idle`, or when there was no request at all within `first`.
    pub(super) async fn quiet(&self, first: Duration, idle: Duration) {
        let mut until = self.begun + first;
        loop {
            sleep_until(until).await;
            let now = Instant::now();
            until = match self.last.load(Ordering::Relaxed) {
                0 => return,
                _ if self.open.load(Ordering::Relaxed) > 0 => now + idle,
                last => self.begun + Duration::from_millis(last) + idle,
            };
            if until <= now {
                return;
            }
        }
    }

    /// Ends when this much time has passed and no exchange is open.
    pub(super) async fn over(&self, after: Duration) {
        sleep(after).await;
        while self.open.load(Ordering::Relaxed) > 0 {
            sleep(after).await;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.note();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(90);

    #[tokio::test(start_paused = true)]
    async fn quiet_is_counted_from_the_end_of_the_last_exchange() {
        let begun = Instant::now();
        let silent = Activity::new();
        silent.quiet(FIRST, IDLE).await;
        assert!(!silent.was_used() && begun.elapsed() < FIRST + Duration::from_secs(1));

        let used = Activity::new();
        let exchange = used.exchange();
        // It goes on for longer than any silence may be.
        let long = FIRST + 3 * IDLE;
        assert!(tokio::time::timeout(long, used.quiet(FIRST, IDLE)).await.is_err());
        drop(exchange);
        let ended = Instant::now();
        used.quiet(FIRST, IDLE).await;
        assert!(used.was_used() && ended.elapsed() >= IDLE && ended.elapsed() < IDLE + Duration::from_secs(1));
    }
}
