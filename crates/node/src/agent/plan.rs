//! Decides what to do about one Pod: pure, from the object and what this machine shows.
//!
//! Invariants:
//! - Nothing is started for a Pod without our finalizer, so no sandbox can outlive its object unseen.
//! - A Pod whose run directory is there, or whose status says that it ran, is never started.
//! - The final status is written before anything is removed, and the finalizer goes last.
//! - A run directory without a live shim and a record is a lost result: reported, never run again.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use mainstay_runtime::Timestamp;

use super::sandboxes::Look;
use super::status::{self, End};
use super::view::View;
use crate::launch::{ExitReason, RunState};

/// How long a started sandbox's first heartbeat is waited for, so that one write says Running and Ready.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);
/// How long a run directory may be neither held nor recorded: the shim that has just made it is about to lock it.
pub(crate) const SETTLE: Duration = Duration::from_millis(500);
/// Notices tell of every change; this only repairs what a lost one would hide.
const RESYNC: Duration = Duration::from_mins(1);

/// The Pod as it should be.
#[derive(Debug, Clone)]
pub(crate) enum Desired {
    /// The object, as last read.
    Pod(Box<View>),
    /// The watch, or a scan of the disk, says that there is none.
    Gone {
        /// A live read has shown it.
        confirmed: bool,
    },
}

/// What this machine shows of one Pod.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    /// The run directory.
    pub(crate) look: Look,
    /// For how long it has been without a lock and a record.
    pub(crate) unrecorded_for: Duration,
    /// Its end is awaited, and its relay is open if it needs one.
    pub(crate) served: bool,
    /// The relay has seen the API accept a heartbeat of this run.
    pub(crate) heard: bool,
    /// How long it has been known to run.
    pub(crate) running_for: Duration,
    /// The shortest grace period with which it was told to stop.
    pub(crate) told_to_stop: Option<u64>,
    /// Files of the agent's own are there for it.
    pub(crate) prepared: bool,
    /// Its token should be replaced.
    pub(crate) token_due: bool,
}

/// One effect.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Read the object live before anything of it is destroyed.
    Confirm,
    /// Put our finalizer on the Pod.
    Claim,
    /// Prepare and start the sandbox.
    Start,
    /// Open the relay, tell the shim our fence, await its end.
    Serve,
    /// Order the sandbox to stop, with this grace period in seconds.
    Stop(u64),
    /// Write the status.
    Report(Box<PodStatus>),
    /// Fetch a new session token.
    RenewToken,
    /// Close the relay and remove socket, token and what the workspace left.
    Release,
    /// Remove all files.
    CleanUp,
    /// Take our finalizer off.
    Unclaim,
}

/// What to do, and when to look again if nothing wakes us.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// In this order; the first failure ends it.
    pub(crate) actions: Vec<Action>,
    /// After them.
    pub(crate) next: Next,
}

/// When to plan again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// At once: the actions have changed what is observed.
    Now,
    /// When woken, or after this time.
    After(Duration),
    /// Never: nothing is left of the Pod.
    Never,
}

impl Plan {
    fn then_look(actions: impl Into<Vec<Action>>) -> Self {
        Self { actions: actions.into(), next: Next::Now }
    }

    fn settled(actions: impl Into<Vec<Action>>) -> Self {
        Self { actions: actions.into(), next: Next::After(RESYNC) }
    }
}

/// What to do about a Pod.
pub(crate) fn plan(desired: &Desired, seen: &Observed, now: Timestamp) -> Plan {
    if matches!(seen.look, Look::Unrecorded(_)) && seen.unrecorded_for < SETTLE {
        return Plan { actions: Vec::new(), next: Next::After(SETTLE.saturating_sub(seen.unrecorded_for)) };
    }
    let view = match desired {
        Desired::Gone { confirmed } => return plan_gone(*confirmed, seen),
        Desired::Pod(view) => view,
    };
    if view.is_finished() {
        return plan_finished(view, seen);
    }
    let end = match &seen.look {
        Look::Absent => return plan_absent(view, now),
        Look::Live(state) => return plan_live(view, state.as_deref(), seen, now),
        Look::Ended(record, state) => End::recorded(record, state.as_deref(), now),
        Look::Unrecorded(state) => {
            End::lost(state.as_deref(), "the sandbox's shim ended without a record: the result is lost", now)
        }
    };
    report_end(view, &end, now)
}

fn report_end(view: &View, end: &End, now: Timestamp) -> Plan {
    Plan::then_look([Action::Report(Box::new(status::ended(view, end, now)))])
}

/// There is no object any more.
fn plan_gone(confirmed: bool, seen: &Observed) -> Plan {
    if matches!(seen.look, Look::Absent) && !seen.prepared {
        return Plan { actions: Vec::new(), next: Next::Never };
    }
    if !confirmed {
        return Plan::then_look([Action::Confirm]);
    }
    match (&seen.look, seen.served, seen.told_to_stop) {
        (Look::Live(_), false, _) => Plan::then_look([Action::Serve]),
        // Nobody is left to wait for its last words.
        (Look::Live(_), true, None) => Plan::settled([Action::Stop(0)]),
        (Look::Live(_), true, Some(_)) => Plan::settled([]),
        (Look::Absent | Look::Ended(..) | Look::Unrecorded(_), ..) => {
            Plan { actions: vec![Action::CleanUp], next: Next::Never }
        }
    }
}

/// Its end is reported; the log stays until the object goes.
fn plan_finished(view: &View, seen: &Observed) -> Plan {
    if matches!(seen.look, Look::Live(_)) {
        // Somebody else wrote the status: end it, and never mind what it says.
        return plan_gone(true, seen);
    }
    match (view.deleting, view.claimed) {
        (true, true) => Plan::settled([Action::CleanUp, Action::Unclaim]),
        _ if seen.prepared || seen.served => Plan::settled([Action::Release]),
        _ => Plan::settled([]),
    }
}

fn plan_absent(view: &View, now: Timestamp) -> Plan {
    if view.phase() == "Running" {
        let end = End::lost(None, "the sandbox's run directory is gone: the result is lost", now);
        return report_end(view, &end, now);
    }
    if view.deleting && !view.claimed {
        return Plan::settled([]);
    }
    if view.stop.is_some() {
        let how = if view.deleting { "deleted" } else { "stopped" };
        let end = End::never_started(ExitReason::Stopped, format!("{how} before it was started"), now);
        return report_end(view, &end, now);
    }
    if !view.claimed {
        return Plan::then_look([Action::Claim]);
    }
    Plan::then_look([Action::Start])
}

fn plan_live(view: &View, state: Option<&RunState>, seen: &Observed, now: Timestamp) -> Plan {
    if !seen.served {
        return Plan::then_look([Action::Serve]);
    }
    if let Some(grace) = view.stop {
        let told = seen.told_to_stop.is_some_and(|told| told <= grace);
        return Plan::settled(if told { Vec::new() } else { vec![Action::Stop(grace)] });
    }
    let mut actions = Vec::new();
    let mut next = Next::After(RESYNC);
    let started = state.and_then(|state| Some((state, state.started_at.as_deref()?.parse().ok()?)));
    if let Some((state, started_at)) = started {
        let ready = view.session.is_none() || seen.heard || view.condition("Ready") == Some("True");
        if ready || view.phase() == "Running" || seen.running_for >= PATIENCE {
            let wanted = status::running(view, state, started_at, ready, now);
            if status::patch(view, &wanted).is_some() {
                actions.push(Action::Report(Box::new(wanted)));
            }
        } else {
            next = Next::After(PATIENCE.saturating_sub(seen.running_for));
        }
    }
    if seen.token_due {
        actions.push(Action::RenewToken);
    }
    Plan { actions, next }
}

#[cfg(test)]
mod tests;
