//! What every [`Store`] promises, as tests: a model, random histories against it, and a validator of watches.
//!
//! The promises (G1 to G4): an acknowledged write stays, also over a crash, which leaves what was not acknowledged whole
//! or absent; a watch shows each matching change once, in order, or ends; a watch resumed at any revision from the floor
//! on shows exactly the rest; no revision becomes visible after a higher one. A session's messages have contiguous
//! numbers, each once per sender and id, however many append at once. An operation is held by one attempt at a time, and
//! ends once. Of several that change one ring of keys at once one does. [`check`] runs everything; an implementation
//! brings a [`Fixture`].
//!
//! Needs the feature `conformance` outside of this crate's own tests.

pub(crate) mod backlog;
mod concurrent;
mod contest;
mod crash;
mod keyring;
mod messages;
pub mod model;
mod operations;
mod sequential;
mod talk;
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
use crate::operation::OPERATIONS;
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

    /// Opens the state as a crash of the store that is open leaves it: what this one is told from now on, and what was on
    /// its way, may be there or not; what it acknowledged is. The old one may fail from then on, or live on for itself.
    fn crash(&self) -> Arc<dyn Store>;
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
    let seed = proptest::num::u64::ANY;
    cases(effort.cases, &seed, |seed| runtime.block_on(concurrent::run(&new(), seed, steps)))?;
    cases(effort.cases, &seed, |seed| runtime.block_on(talk::run(&new(), seed, steps)))?;
    // Leases are judged by Tokio's clock, which these drive.
    let driven = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let driven = driven.map_err(|error| error.to_string())?;
    cases(effort.cases, &operations::history(steps), |history| driven.block_on(operations::run(&new(), history)))?;
    // Each of these is several runs.
    let few = effort.cases.div_ceil(4);
    cases(few, &seed, |seed| runtime.block_on(crash::run(&new(), seed, steps)))?;
    cases(few, &seed, |seed| runtime.block_on(keyring::run(&new(), seed, steps)))?;
    cases(few, &seed, |seed| runtime.block_on(contest::run(&new(), seed, steps)))
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
        queued: None,
    }
}

/// The resources that keys are of: one that may be kept in memory, and the one that is not.
const RESOURCES: [&str; 2] = ["/pods", OPERATIONS];

/// One of few keys, so that histories meet themselves.
fn key(number: u8) -> Key {
    let resource = RESOURCES[usize::from(number & 1)];
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

/// A small generator (SplitMix64), so that a seed gives each task its own choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn key(&mut self) -> Key {
        key(u8::try_from(self.roll(16)).unwrap_or(0))
    }
}
