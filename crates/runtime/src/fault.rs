//! Fault points: named places where a test can kill the process, fail a step or repeat it.
//!
//! They are always compiled in and cost one relaxed load each. They are armed only from the environment, which `testkit`
//! sets for the processes that it starts: a server's by [`ENV`], its shims' by [`SHIM_ENV`], neither by the other's.
//!
//! | value | effect |
//! |---|---|
//! | `count` | only counts |
//! | `kill@N` | SIGKILL of this process at the N-th hit of any point (from 1) |
//! | `kill:NAME@N` | SIGKILL at the N-th hit of that point |
//! | `fail:NAME@N` | that hit returns [`Injected`]; not in a shim |
//! | `repeat:NAME@N` | what that hit follows is carried out once more, of points that [can be](Point::can_repeat) |
//!
//! With [`LOG_ENV`] set to a file, each hit appends its point's name and a newline before it takes effect, so that a
//! harness can count events and show that each point was hit. With [`ONCE_ENV`] set to one, the fault strikes only the
//! process that makes it: one of many shims that are armed alike.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::failure::{Class, Classify};

/// The environment variable that arms fault points.
pub const ENV: &str = "MAINSTAY_FAULT";
/// The one that arms a shim's, which it has from the server that starts it.
pub const SHIM_ENV: &str = "MAINSTAY_SHIM_FAULT";
/// The environment variable that names the log of hits.
pub const LOG_ENV: &str = "MAINSTAY_FAULT_LOG";
/// The environment variable that names the file whose maker alone is struck.
pub const ONCE_ENV: &str = "MAINSTAY_FAULT_ONCE";

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
    /// An operation was claimed; nothing of it was begun.
    OperationAfterClaim = "operation.after-claim",
    /// A step is about to act; the journal says so.
    OperationAfterIntent = "operation.after-intent",
    /// It has acted, or was found to have; the journal does not say so.
    OperationAfterAct = "operation.after-act",
    /// The journal says so.
    OperationAfterOutcome = "operation.after-outcome",
    /// A step is about to be undone; the journal says so.
    OperationAfterUndoing = "operation.after-undoing",
    /// It is undone; the journal does not say so.
    OperationAfterUndo = "operation.after-undo",
    /// An attempt is over; nobody was told.
    OperationBeforeSettle = "operation.before-settle",
    /// What came of it is stored.
    OperationAfterSettle = "operation.after-settle",
    /// A reconcile is about to observe.
    DriverBeforeObserve = "driver.before-observe",
    /// A plan was made; nothing of it was applied.
    DriverBeforeApply = "driver.before-apply",
    /// One action of a plan was applied.
    DriverAfterApply = "driver.after-apply",
    /// Our finalizer is about to be put on a Pod.
    NodeBeforeClaim = "node.before-claim",
    /// It is there.
    NodeAfterClaim = "node.after-claim",
    /// A sandbox is about to be prepared and started.
    NodeBeforeStart = "node.before-start",
    /// A session token was fetched; it is not in place.
    NodeBeforeToken = "node.before-token",
    /// It is in place; nothing is written down of it.
    NodeAfterToken = "node.after-token",
    /// The directories are prepared; no shim was started.
    NodeBeforeShim = "node.before-shim",
    /// The shim was started; what it said was not looked at.
    NodeAfterShim = "node.after-shim",
    /// The sandbox's end is awaited.
    NodeAfterStart = "node.after-start",
    /// A live sandbox is about to be taken over.
    NodeBeforeServe = "node.before-serve",
    /// Its relay is open, and its shim knows our fence.
    NodeAfterServe = "node.after-serve",
    /// A sandbox is about to be told to stop.
    NodeBeforeStop = "node.before-stop",
    /// It was told.
    NodeAfterStop = "node.after-stop",
    /// A Pod's status is about to be written.
    NodeBeforeReport = "node.before-report",
    /// It is written.
    NodeAfterReport = "node.after-report",
    /// A new session token is about to be fetched.
    NodeBeforeRenew = "node.before-renew",
    /// It is in place and written down.
    NodeAfterRenew = "node.after-renew",
    /// Socket, token and workspace of a finished sandbox are about to be removed.
    NodeBeforeRelease = "node.before-release",
    /// They are removed.
    NodeAfterRelease = "node.after-release",
    /// A finished sandbox's files are about to be removed.
    NodeBeforeCleanup = "node.before-cleanup",
    /// A finished sandbox's files were removed.
    NodeAfterCleanup = "node.after-cleanup",
    /// Our finalizer is about to be taken off a Pod.
    NodeBeforeUnclaim = "node.before-unclaim",
    /// It is off.
    NodeAfterUnclaim = "node.after-unclaim",
    /// The workspace of a session that is gone is about to be removed.
    NodeBeforeKept = "node.before-kept",
    /// It is removed.
    NodeAfterKept = "node.after-kept",
    /// Cgroups that nobody answers for are about to be removed.
    NodeBeforeSweep = "node.before-sweep",
    /// They are removed.
    NodeAfterSweep = "node.after-sweep",
    /// A shim has detached; nothing is claimed.
    ShimBeforeClaim = "shim.before-claim",
    /// The run directory is claimed; nobody was told.
    ShimAfterClaim = "shim.after-claim",
    /// The shim is described; nothing is prepared.
    ShimAfterState = "shim.after-state",
    /// Workspace and cgroups are there; no process of the sandbox is.
    ShimBeforeStart = "shim.before-start",
    /// The sandbox is built; nobody was told.
    ShimAfterStart = "shim.after-start",
    /// The sandbox has ended; its end is not recorded.
    ShimBeforeRecord = "shim.before-record",
    /// Its end is recorded; nothing of it is removed.
    ShimAfterRecord = "shim.after-record",
    /// All but the run directory is removed.
    ShimAfterRemove = "shim.after-remove",
}

impl Point {
    /// Whether a shim passes it, and not a server.
    pub fn is_shims(self) -> bool {
        self.name().starts_with("shim.")
    }

    /// Whether an action ends here that whoever passes the point by [`again`] carries out once more when told to.
    pub const fn can_repeat(self) -> bool {
        matches!(
            self,
            Self::OperationAfterAct
                | Self::OperationAfterUndo
                | Self::DriverAfterApply
                | Self::NodeAfterClaim
                | Self::NodeAfterStart
                | Self::NodeAfterServe
                | Self::NodeAfterStop
                | Self::NodeAfterReport
                | Self::NodeAfterRenew
                | Self::NodeAfterRelease
                | Self::NodeAfterCleanup
                | Self::NodeAfterUnclaim
        )
    }
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
    once: Option<PathBuf>,
    total: AtomicU64,
    counts: Vec<AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Count,
    KillAny(u64),
    Kill(Point, u64),
    Fail(Point, u64),
    Repeat(Point, u64),
}

/// The value of the variable is not one of the forms that this module documents.
#[derive(Debug, thiserror::Error)]
#[error("{0}={1:?}: expected count, kill@N, kill:NAME@N, fail:NAME@N or repeat:NAME@N")]
pub struct BadPlan(&'static str, String);

/// Arms the fault points if [`ENV`] is set. Called once, early in `main`.
///
/// # Errors
/// [`BadPlan`] when the variable cannot be read, so that a misspelt test fails instead of testing nothing.
pub fn arm_from_env() -> Result<(), BadPlan> {
    arm_from(ENV)
}

/// Arms the fault points of a shim if [`SHIM_ENV`] is set. Called once, as soon as it has closed what it inherited.
///
/// # Errors
/// [`BadPlan`] as [`arm_from_env`].
pub fn arm_shim_from_env() -> Result<(), BadPlan> {
    arm_from(SHIM_ENV)
}

fn arm_from(variable: &'static str) -> Result<(), BadPlan> {
    let Ok(text) = std::env::var(variable) else { return Ok(()) };
    let action = parse(&text).ok_or(BadPlan(variable, text))?;
    let log = std::env::var_os(LOG_ENV)
        .and_then(|path| std::fs::OpenOptions::new().create(true).append(true).open(path).ok());
    let once = std::env::var_os(ONCE_ENV).map(PathBuf::from);
    let counts = Point::ALL.iter().map(|_| AtomicU64::new(0)).collect();
    let plan = Plan { action, log, once, total: AtomicU64::new(0), counts };
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
        // A shim has nobody to fail to but its records.
        Some(("fail", name)) => Some(Action::Fail(point(name).filter(|point| !point.is_shims())?, nth)),
        Some(("repeat", name)) => Some(Action::Repeat(point(name).filter(|point| point.can_repeat())?, nth)),
        _ => None,
    }
}

/// Passes a fault point.
///
/// # Errors
/// [`Injected`] when a test asked for this hit to fail. Callers that cannot fail drop the result with `.ok()`.
#[inline]
pub fn hit(point: Point) -> Result<(), Injected> {
    again(point).map(drop)
}

/// Passes a fault point at the end of an action; whether a test asked for the action once more.
///
/// # Errors
/// [`Injected`] when a test asked for this hit to fail.
#[inline]
pub fn again(point: Point) -> Result<bool, Injected> {
    if ARMED.load(Ordering::Relaxed) { hit_armed(point) } else { Ok(false) }
}

#[cold]
fn hit_armed(point: Point) -> Result<bool, Injected> {
    let Some(plan) = PLAN.get() else { return Ok(false) };
    let total = plan.total.fetch_add(1, Ordering::SeqCst) + 1;
    let nth = plan.counts[point as usize].fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(mut log) = plan.log.as_ref() {
        log.write_all(format!("{}\n", point.name()).as_bytes()).ok();
    }
    match plan.action {
        Action::KillAny(at) if at == total && plan.strikes() => die(),
        Action::Kill(at, n) if at == point && n == nth && plan.strikes() => die(),
        Action::Fail(at, n) if at == point && n == nth && plan.strikes() => Err(Injected(point)),
        Action::Repeat(at, n) => Ok(at == point && n == nth && plan.strikes()),
        _ => Ok(false),
    }
}

impl Plan {
    /// Whether this process is the one to be struck.
    fn strikes(&self) -> bool {
        self.once.as_ref().is_none_or(|path| std::fs::File::create_new(path).is_ok())
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
        assert_eq!(parse("repeat:driver.after-apply@3"), Some(Action::Repeat(Point::DriverAfterApply, 3)));
        assert!(parse("kill:shim.after-claim@1").is_some());
        let cannot = ["repeat:store.before-commit@1", "fail:shim.after-claim@1"];
        let misspelt = ["", "kill", "kill@0", "kill:nowhere@1", "fail@1", "kill@x", "repeat@1"];
        for wrong in misspelt.into_iter().chain(cannot) {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
