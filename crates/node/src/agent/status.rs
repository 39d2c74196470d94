//! What is written into a Pod's status: pure functions from what was observed.
//!
//! Invariant: nothing is claimed that was not observed, and a condition's time of transition moves with its status only.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use mainstay_runtime::Timestamp;
use serde_json::{Value, json};

use super::view::View;
use crate::launch::{EffectiveIsolation, ExitReason, ExitRecord, Isolation, RunState};

/// The exit code shown for an agent process that never was, or whose end nobody saw.
const NO_EXIT_CODE: i32 = 128;
/// The namespaces and filters without which a sandbox is not called isolated.
const ISOLATION: [&str; 5] = ["pid", "mount", "network", "ipc", "seccomp"];

/// Why a Pod came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// One of the reasons of the exit record, or `Lost`.
    pub(crate) reason: &'static str,
    /// The root cause in words.
    pub(crate) message: String,
    /// The agent process's exit code.
    pub(crate) exit_code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// When it was started.
    pub(crate) started_at: Option<Timestamp>,
    /// When it ended.
    pub(crate) finished_at: Timestamp,
    /// What of the isolation was in force.
    pub(crate) isolation: Option<EffectiveIsolation>,
}

/// The word of a reason.
const fn word(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Completed => "Completed",
        ExitReason::Error => "Error",
        ExitReason::OOMKilled => "OOMKilled",
        ExitReason::DeadlineExceeded => "DeadlineExceeded",
        ExitReason::Stopped => "Stopped",
        ExitReason::CreationFailed => "CreationFailed",
    }
}

impl End {
    /// As the shim recorded it.
    pub(crate) fn recorded(record: &ExitRecord, state: Option<&RunState>, now: Timestamp) -> Self {
        Self {
            reason: word(record.reason),
            message: record.message.clone(),
            exit_code: record.exit_code,
            signal: record.signal,
            started_at: record.started_at.as_deref().and_then(|time| time.parse().ok()),
            finished_at: record.finished_at.parse().unwrap_or(now),
            isolation: isolation_of(state),
        }
    }

    /// Its shim has gone and left no record.
    pub(crate) fn lost(state: Option<&RunState>, message: &str, now: Timestamp) -> Self {
        let started_at = state.and_then(|state| state.started_at.as_deref()).and_then(|time| time.parse().ok());
        let message = message.to_owned();
        Self {
            reason: "Lost",
            message,
            exit_code: None,
            signal: None,
            started_at,
            finished_at: now,
            isolation: isolation_of(state),
        }
    }

    /// Nothing was ever executed.
    pub(crate) fn never_started(reason: ExitReason, message: String, now: Timestamp) -> Self {
        Self {
            reason: word(reason),
            message,
            exit_code: None,
            signal: None,
            started_at: None,
            finished_at: now,
            isolation: None,
        }
    }
}

/// Known once the sandbox was started.
fn isolation_of(state: Option<&RunState>) -> Option<EffectiveIsolation> {
    state.filter(|state| state.started_at.is_some()).map(|state| state.isolation.clone())
}

/// The status of a Pod whose sandbox runs.
pub(crate) fn running(view: &View, state: &RunState, started_at: Timestamp, ready: bool, now: Timestamp) -> PodStatus {
    let mut status = begin(view, now);
    let state_now = ContainerState {
        running: Some(ContainerStateRunning { started_at: Some(Time(started_at)) }),
        ..Default::default()
    };
    status.phase = Some("Running".to_owned());
    status.container_statuses = Some(vec![container(view, state_now, ready, true)]);
    set(&mut status, isolated(&state.isolation), now);
    let ready = match (ready, view.session.is_some()) {
        (true, true) => condition("Ready", true, "HeartbeatAccepted", ""),
        (true, false) => condition("Ready", true, "Started", ""),
        (false, _) => {
            condition("Ready", false, "Starting", "the supervisor's first heartbeat has not been accepted yet")
        }
    };
    set(&mut status, ready, now);
    status
}

/// The status of a Pod that has come to its end.
pub(crate) fn ended(view: &View, end: &End, now: Timestamp) -> PodStatus {
    let mut status = begin(view, now);
    // What was ordered to stop did not complete, whatever it exited with.
    let completed = end.reason == "Completed";
    status.phase = Some(if completed { "Succeeded" } else { "Failed" }.to_owned());
    status.reason = Some(end.reason.to_owned());
    status.message = Some(end.message.clone()).filter(|message| !message.is_empty());
    let exit_code = end.exit_code.or_else(|| end.signal.map(|signal| NO_EXIT_CODE + signal)).unwrap_or(NO_EXIT_CODE);
    let terminated = ContainerStateTerminated {
        exit_code,
        signal: end.signal,
        reason: Some(end.reason.to_owned()),
        message: status.message.clone(),
        started_at: end.started_at.map(Time),
        finished_at: Some(Time(end.finished_at)),
        container_id: None,
    };
    let state = ContainerState { terminated: Some(terminated), ..Default::default() };
    status.container_statuses = Some(vec![container(view, state, false, false)]);
    if let Some(isolation) = &end.isolation {
        set(&mut status, isolated(isolation), now);
    }
    let why = if completed { "PodCompleted" } else { end.reason };
    set(&mut status, condition("Ready", false, why, ""), now);
    status
}

/// The status of a Pod that could not be started yet.
pub(crate) fn waiting(view: &View, message: String, now: Timestamp) -> PodStatus {
    let mut status = begin(view, now);
    status.phase = Some("Pending".to_owned());
    status.reason = Some("Retrying".to_owned());
    status.message = Some(message);
    status
}

/// A merge patch that makes `view`'s status `wanted`, and nothing if another write came first; `None` when it is so.
pub(crate) fn patch(view: &View, wanted: &PodStatus) -> Option<Value> {
    // Compared as they are written: times lose their fractions on the way.
    let mut status = serde_json::to_value(wanted).ok()?;
    if view.object.status.as_ref().and_then(|old| serde_json::to_value(old).ok()).as_ref() == Some(&status) {
        return None;
    }
    for field in ["reason", "message"] {
        status.as_object_mut()?.entry(field).or_insert(Value::Null);
    }
    let version = &view.version;
    Some(json!({ "metadata": { "uid": view.pod.uid, "resourceVersion": version }, "status": status }))
}

/// What every status starts from: the conditions and the start that were written before.
fn begin(view: &View, now: Timestamp) -> PodStatus {
    let old = view.object.status.as_ref();
    PodStatus {
        conditions: old.and_then(|old| old.conditions.clone()),
        start_time: Some(old.and_then(|old| old.start_time.clone()).unwrap_or(Time(now))),
        ..Default::default()
    }
}

fn container(view: &View, state: ContainerState, ready: bool, started: bool) -> ContainerStatus {
    let name =
        view.object.spec.as_ref().and_then(|spec| spec.containers.first()).map(|container| container.name.clone());
    ContainerStatus {
        name: name.unwrap_or_default(),
        image: "host".to_owned(),
        image_id: String::new(),
        ready,
        started: Some(started),
        state: Some(state),
        ..Default::default()
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> PodCondition {
    PodCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()).filter(|message| !message.is_empty()),
        ..Default::default()
    }
}

/// What of the isolation is in force.
fn isolated(isolation: &EffectiveIsolation) -> PodCondition {
    let missing: Vec<&str> =
        ISOLATION.into_iter().filter(|wanted| !isolation.in_force.iter().any(|held| held == wanted)).collect();
    let (reason, asked) = match isolation.asked {
        Isolation::Full => ("Full", true),
        Isolation::User => ("User", true),
        Isolation::None => ("None", false),
    };
    if asked && missing.is_empty() {
        return condition("Isolated", true, reason, &isolation.in_force.join(", "));
    }
    let reason = if asked { "Incomplete" } else { reason };
    let message = match (asked, isolation.in_force.is_empty()) {
        (true, _) => format!("not in force: {}", missing.join(", ")),
        (false, true) => "a plain process on the host".to_owned(),
        (false, false) => isolation.in_force.join(", "),
    };
    condition("Isolated", false, reason, &message)
}

fn set(status: &mut PodStatus, mut new: PodCondition, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter_mut().find(|old| old.type_ == new.type_);
    let since = old.as_ref().filter(|old| old.status == new.status).and_then(|old| old.last_transition_time.clone());
    new.last_transition_time = Some(since.unwrap_or(Time(now)));
    match old {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests;
