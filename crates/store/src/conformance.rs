//! What every [`Store`] promises, as tests: a model, random histories against it, and a validator of watches.
//!
//! The promises (G1 to G4): an acknowledged write stays; a watch shows each matching change once, in order, or ends;
//! a watch resumed at any revision from the floor on shows exactly the rest; no revision becomes visible after a
//! higher one. [`check`] runs everything; an implementation brings a [`Fixture`].
//!
//! Needs the feature `conformance` outside of this crate's own tests.

mod concurrent;
mod messages;
pub mod model;
mod sequential;
#[cfg(test)]
mod tests;
pub mod validator;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::object::{Draft, Key, Meta, Revision};
use crate::watch::{Watch, WatchEnd};
use crate::{Store, StoreError};
use validator::Recording;

/// Fails a check with a message.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

/// The outcome of a check: what went wrong, for people.
pub type Outcome = Result<(), String>;

/// A state that can be opened again. For good coverage its stores keep few changes in memory.
pub trait Fixture: Send + Sync {
    /// Opens the state; the store that was opened before is closed by then.
    fn open(&self) -> Arc<dyn Store>;
}

/// How much [`check`] does.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Random histories of each sort.
    pub cases: u32,
    /// Steps of a history.
    pub steps: usize,
}

/// Runs the whole suite; a new fixture for each history.
///
/// # Errors
/// The smallest failing history found, and how it failed.
pub fn check<F: Fixture>(new: impl Fn() -> F, effort: Effort) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let steps = effort.steps;
    cases(effort.cases, &sequential::history(steps), |history| runtime.block_on(sequential::run(&new(), history)))?;
    cases(effort.cases, &messages::history(steps), |history| runtime.block_on(messages::run(&new(), history)))?;
    cases(effort.cases, &proptest::num::u64::ANY, |seed| runtime.block_on(concurrent::run(&new(), seed, steps)))
}

fn cases<S: Strategy>(count: u32, strategy: &S, run: impl Fn(S::Value) -> Outcome) -> Outcome
where
    S::Value: fmt::Debug,
{
    let config = Config { cases: count, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let outcome = TestRunner::new(config).run(strategy, |value| run(value).map_err(TestCaseError::fail));
    outcome.map_err(|failure| failure.to_string())
}

/// An object whose bytes hold a value and its revision.
fn draft(value: u32) -> Draft {
    Draft {
        head: format!("{{\"value\":{value},\"revision\":\"").into(),
        tail: "\"}".into(),
        meta: Arc::new(Meta { uid: value.to_string().into(), ..Meta::default() }),
    }
}

/// One of few keys, so that histories meet themselves.
fn key(number: u8) -> Key {
    let resource = if number & 1 == 0 { "/pods" } else { "mainstay.dev/sessions" };
    let namespace = if number & 2 == 0 { "a" } else { "b" };
    Key::new(resource, namespace, format!("n{}", (number >> 2) & 3))
}

/// Hands what the watch has, up to `revision` at least, to the recording. Each wait is dropped and taken up again.
async fn drain(watch: &mut Watch, recording: &mut Recording, revision: Revision) -> Result<(), WatchEnd> {
    let caught_up = async {
        while watch.progress() < revision {
            match watch.next().now_or_never() {
                Some(Ok(changes)) => recording.changes(&changes),
                Some(Err(end)) => return Err(end),
                None => tokio::task::yield_now().await,
            }
        }
        recording.progress(watch.progress());
        Ok(())
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), caught_up).await;
    outcome.unwrap_or_else(|_| {
        recording.stall();
        Ok(())
    })
}

fn text(error: &StoreError) -> String {
    error.to_string()
}
