//! Asking a backend how it is, without becoming a load of its own.
//!
//! One look at a time: who asks meanwhile waits for it and gets its answer; so does who asks within `fresh` after it.
//! A look has a deadline of its own and takes no place of the bulkhead, so that a backend that is full can still be asked.

use std::future::Future;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// See the module.
#[derive(Debug)]
pub struct Probe<T> {
    fresh: Duration,
    deadline: Duration,
    last: Mutex<Option<(Instant, Option<T>)>>,
}

impl<T: Clone> Probe<T> {
    /// A look's answer counts for `fresh`; a look ends after `deadline`.
    pub fn new(fresh: Duration, deadline: Duration) -> Self {
        Self { fresh, deadline, last: Mutex::new(None) }
    }

    /// What the last look saw, or a new one; `None` when there was no answer in time.
    ///
    /// # Cancel safety
    /// A look that is dropped is made by the next who waits.
    pub async fn ask<F: Future<Output = T>>(&self, look: impl FnOnce() -> F) -> Option<T> {
        let mut last = self.last.lock().await;
        if let Some((at, seen)) = &*last
            && at.elapsed() < self.fresh
        {
            return seen.clone();
        }
        let seen = timeout(self.deadline, look()).await.ok();
        *last = Some((Instant::now(), seen.clone()));
        seen
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Tasks;
    use crate::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_are_answered_by_one_look() {
        let probe = Arc::new(Probe::new(Duration::from_secs(5), Duration::from_secs(2)));
        let looks = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let (probe, looks) = (Arc::clone(&probe), Arc::clone(&looks));
            async move {
                let look = || async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    looks.fetch_add(1, Ordering::Relaxed)
                };
                probe.ask(look).await
            }
        };
        let askers: Vec<_> = (0..50).map(|_| Tasks::new().spawn("asker", ask())).collect();
        for asker in askers {
            assert_eq!(asker.await.unwrap(), Some(0));
        }
        assert_eq!(ask().await, Some(0), "it is fresh");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(ask().await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_without_an_answer_ends_and_a_dropped_one_is_made_by_the_next() {
        let probe = Probe::<u8>::new(Duration::from_secs(5), Duration::from_secs(2));
        let began = Instant::now();
        assert_eq!(probe.ask(std::future::pending).await, None);
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(timeout(Duration::from_secs(1), probe.ask(std::future::pending)).await.is_err());
        assert_eq!(probe.ask(|| async { 7 }).await, Some(7));
    }
}
