//! The end of a process: one deadline, which all that has to end shares.
//!
//! Tasks have most of the time, and what is closed after them the rest. What does not end by then is left where it is, and
//! the process ends with a failure: all that was answered is durable, and what was not is for the next start to look at. Should
//! even that not come to its end, since a thread hangs in the kernel for instance, the process is ended by another thread.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, timeout_at};

/// Of the time, what is kept for closing: one part in so many, and no more than that.
const PARTS: u32 = 5;
const MOST: Duration = Duration::from_secs(5);
/// How long after the deadline the process is ended whatever it does.
const CUT: Duration = Duration::from_secs(2);
/// What it ends with then.
const CUT_OFF: i32 = 1;

/// The deadline, and how much before it tasks have to be done.
pub(super) struct Ending {
    by: Instant,
    kept: Duration,
}

impl Ending {
    /// Everything is to end within this.
    pub(super) fn within(grace: Duration) -> Self {
        Self { by: Instant::now() + grace, kept: (grace / PARTS).min(MOST) }
    }

    /// The same, and the process is ended if it is still there after that.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub(super) fn begin(grace: Duration) -> anyhow::Result<Self> {
        let (keep, never) = mpsc::channel::<()>();
        let watch = move || {
            let _keep = keep;
            never.recv_timeout(grace + CUT).ok();
            tracing::error!("not all had ended in time: the process ends all the same");
            std::process::exit(CUT_OFF)
        };
        std::thread::Builder::new().name("ending".to_owned()).spawn(watch).context("watch over the end")?;
        Ok(Self::within(grace))
    }

    /// What is left.
    pub(super) fn left(&self) -> Duration {
        self.by.saturating_duration_since(Instant::now())
    }

    /// What is left for tasks.
    pub(super) fn left_for_tasks(&self) -> Duration {
        self.left().saturating_sub(self.kept)
    }

    /// Closes something, as long as there is time.
    ///
    /// # Errors
    /// When there was not.
    pub(super) async fn close(&self, what: &str, closing: impl Future<Output = ()>) -> anyhow::Result<()> {
        timeout_at(self.by, closing).await.with_context(|| format!("there was no time left to close: {what}"))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// This very test, in a process that does not end by itself.
    const HANGS: &str = "MAINSTAY_TEST_HANGS";

    #[test]
    fn a_process_that_does_not_end_is_ended() {
        let grace = Duration::from_millis(10);
        if std::env::var_os(HANGS).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async { Ending::begin(grace).map(drop) }).unwrap();
            loop {
                std::thread::park();
            }
        }
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "serve::ending::tests::a_process_that_does_not_end_is_ended"]).env(HANGS, "yes");
        let begun = Instant::now();
        let done = again.output().unwrap();
        assert_eq!(done.status.code(), Some(CUT_OFF), "{done:?}");
        assert!((CUT..CUT * 5).contains(&begun.elapsed()), "after {:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_ends_shares_one_deadline() {
        let ending = Ending::within(Duration::from_secs(25));
        assert_eq!((ending.left_for_tasks(), ending.left()), (Duration::from_secs(20), Duration::from_secs(25)));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!((ending.left_for_tasks(), ending.left()), (Duration::ZERO, Duration::from_secs(5)));
        let begun = Instant::now();
        assert!(ending.close("quick", async {}).await.is_ok());
        assert!(ending.close("first", pending()).await.is_err());
        assert!(ending.close("second", pending()).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), 5, "the second had no time of its own");
        assert_eq!(ending.left(), Duration::ZERO);
    }
}
