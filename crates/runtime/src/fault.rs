//! Fault points: named places where a test can kill the process, fail a step or repeat it.
//!
//! They are always compiled in and cost one relaxed load each. They are armed only from the environment variable
//! [`ENV`], which `testkit` sets for the processes that it starts:
//!
//! | value | effect |
//! |---|---|
//! | `count` | only counts |
//! | `kill@N` | SIGKILL of this process at the N-th hit of any point (from 1) |
//! | `kill:NAME@N` | SIGKILL at the N-th hit of that point |
//! | `fail:NAME@N` | that hit returns [`Injected`] |
//!
//! With [`LOG_ENV`] set to a file, each hit appends its point's name and a newline before it takes effect, so that a
//! harness can count events and show that each point was hit.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::failure::{Class, Classify};

/// The environment variable that arms fault points.
pub const ENV: &str = "MAINSTAY_FAULT";
/// The environment variable that names the log of hits.
pub const LOG_ENV: &str = "MAINSTAY_FAULT_LOG";

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Every fault point there is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Point { $($(#[doc = $doc])+ $name,)+ }

        impl Point {
            /// All points, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The point's name in [`ENV`] and in the log.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

points! {
    /// A batch was applied but is not committed.
    StoreBeforeCommit = "store.before-commit",
    /// A batch is durable; nobody was told.
    StoreAfterCommit = "store.after-commit",
    /// Watchers were told; the callers were not.
    StoreAfterPublish = "store.after-publish",
    /// A reconcile is about to observe.
    DriverBeforeObserve = "driver.before-observe",
    /// A plan was made; nothing of it was applied.
    DriverBeforeApply = "driver.before-apply",
    /// One action of a plan was applied.
    DriverAfterApply = "driver.after-apply",
    /// A sandbox directory is about to be prepared.
    NodeBeforePrepare = "node.before-prepare",
    /// The directory is prepared; no shim was started.
    NodeBeforeShim = "node.before-shim",
    /// The shim was started; the agent has not recorded it.
    NodeAfterShim = "node.after-shim",
    /// A sandbox is about to be told to stop.
    NodeBeforeStop = "node.before-stop",
    /// An exit record was read; the Pod's status is not written.
    NodeBeforeReport = "node.before-report",
    /// A finished sandbox's files are about to be removed.
    NodeBeforeCleanup = "node.before-cleanup",
    /// A finished sandbox's files were removed.
    NodeAfterCleanup = "node.after-cleanup",
}

/// A failure that a test asked for.
#[derive(Debug, thiserror::Error)]
#[error("fault injected at {}", .0.name())]
pub struct Injected(pub Point);

impl Classify for Injected {
    fn class(&self) -> Class {
        Class::TRANSIENT
    }
}

static ARMED: AtomicBool = AtomicBool::new(false);
static PLAN: OnceLock<Plan> = OnceLock::new();

struct Plan {
    action: Action,
    log: Option<std::fs::File>,
    total: AtomicU64,
    counts: Vec<AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Count,
    KillAny(u64),
    Kill(Point, u64),
    Fail(Point, u64),
}

/// The value of [`ENV`] is not one of the forms that this module documents.
#[derive(Debug, thiserror::Error)]
#[error("{ENV}={0:?}: expected count, kill@N, kill:NAME@N or fail:NAME@N")]
pub struct BadPlan(String);

/// Arms the fault points if [`ENV`] is set. Called once, early in `main`.
///
/// # Errors
/// [`BadPlan`] when the variable cannot be read, so that a misspelt test fails instead of testing nothing.
pub fn arm_from_env() -> Result<(), BadPlan> {
    let Ok(text) = std::env::var(ENV) else { return Ok(()) };
    let action = parse(&text).ok_or(BadPlan(text))?;
    let log = std::env::var_os(LOG_ENV)
        .and_then(|path| std::fs::OpenOptions::new().create(true).append(true).open(path).ok());
    let counts = Point::ALL.iter().map(|_| AtomicU64::new(0)).collect();
    let plan = Plan { action, log, total: AtomicU64::new(0), counts };
    if PLAN.set(plan).is_ok() {
        ARMED.store(true, Ordering::Release);
    }
    Ok(())
}

fn parse(text: &str) -> Option<Action> {
    if text == "count" {
        return Some(Action::Count);
    }
    let (what, nth) = text.rsplit_once('@')?;
    let nth = nth.parse().ok().filter(|nth| *nth > 0)?;
    let point = |name: &str| Point::ALL.iter().copied().find(|point| point.name() == name);
    match what.split_once(':') {
        None if what == "kill" => Some(Action::KillAny(nth)),
        Some(("kill", name)) => Some(Action::Kill(point(name)?, nth)),
        Some(("fail", name)) => Some(Action::Fail(point(name)?, nth)),
        _ => None,
    }
}

/// Passes a fault point.
///
/// # Errors
/// [`Injected`] when a test asked for this hit to fail. Callers that cannot fail drop the result with `.ok()`.
#[inline]
pub fn hit(point: Point) -> Result<(), Injected> {
    if ARMED.load(Ordering::Relaxed) { hit_armed(point) } else { Ok(()) }
}

#[cold]
fn hit_armed(point: Point) -> Result<(), Injected> {
    let Some(plan) = PLAN.get() else { return Ok(()) };
    let total = plan.total.fetch_add(1, Ordering::SeqCst) + 1;
    let nth = plan.counts[point as usize].fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(mut log) = plan.log.as_ref() {
        log.write_all(format!("{}\n", point.name()).as_bytes()).ok();
    }
    match plan.action {
        Action::KillAny(at) if at == total => die(),
        Action::Kill(at, n) if at == point && n == nth => die(),
        Action::Fail(at, n) if at == point && n == nth => Err(Injected(point)),
        _ => Ok(()),
    }
}

fn die() -> ! {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).ok();
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read_and_misspellings_refused() {
        assert_eq!(parse("count"), Some(Action::Count));
        assert_eq!(parse("kill@7"), Some(Action::KillAny(7)));
        let point = Point::StoreBeforeCommit;
        assert_eq!(parse("fail:store.before-commit@2"), Some(Action::Fail(point, 2)));
        assert_eq!(parse("kill:store.before-commit@1"), Some(Action::Kill(point, 1)));
        for wrong in ["", "kill", "kill@0", "kill:nowhere@1", "fail@1", "kill@x"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
