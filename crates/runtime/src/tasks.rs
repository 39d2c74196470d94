//! Every task of a process: tracked, named, told to stop, and joined.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info_span};

/// The owner of a process's tasks; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

/// The tasks did not end within the grace period.
#[derive(Debug, thiserror::Error)]
#[error("{left} tasks were still running after {grace:?}")]
pub struct Unfinished {
    /// How many tasks were left.
    pub left: usize,
    /// How long we waited.
    pub grace: Duration,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the process is to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.child_token()
    }

    /// Tells all tasks to stop; returns at once.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Runs a task to its end. Its owner may drop the handle: the task goes on and is joined at shutdown.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns tasks")]
    pub fn spawn<F>(&self, name: &'static str, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(work.instrument(info_span!("task", name))))
    }

    /// Runs a task without which the process is of no use: when it ends, even by panic, all tasks are told to stop.
    pub fn essential<F>(&self, name: &'static str, run: impl FnOnce(CancellationToken) -> F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work = run(self.stop.child_token());
        let last_word = self.stop.clone().drop_guard();
        self.spawn(name, async move {
            let _last_word = last_word;
            work.await;
        })
    }

    /// Tells all tasks to stop and waits for them.
    ///
    /// # Errors
    /// [`Unfinished`] when some are still running after `grace`.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), Unfinished> {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait())
            .await
            .map_err(|_| Unfinished { left: self.tracker.len(), grace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R23.
    #[tokio::test(start_paused = true)]
    async fn an_essential_task_that_panics_stops_the_others() {
        let tasks = Tasks::new();
        let stop = tasks.stopping();
        tasks.essential("doomed", |_| async { panic!("as asked") });
        stop.cancelled().await;
        assert!(tasks.shutdown(Duration::from_secs(1)).await.is_ok());
    }

    /// R23.
    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_counted() {
        let tasks = Tasks::new();
        drop(tasks.spawn("deaf", std::future::pending::<()>()));
        assert_eq!(tasks.shutdown(Duration::from_secs(1)).await.unwrap_err().left, 1);
    }
}
