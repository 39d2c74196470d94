//! A session's status: the one place where each phase's fields and conditions are put together.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use mainstay_api::names;
use mainstay_api::phase::Phase;
use mainstay_api::session::{Session, SessionStatus};
use mainstay_api::span::Span;
use mainstay_runtime::Timestamp;
use serde_json::{Value, json};

use crate::objects::merge_condition;

/// The reason of a run whose supervisor never spoke.
pub(super) const CREATION_DEADLINE_EXCEEDED: &str = "CreationDeadlineExceeded";

/// A move of a session, or a word about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// The newest spec was looked at.
    Seen,
    /// A new run is asked for.
    Pending,
    /// The run's Pod exists, and holds this deadline, in seconds.
    Creating { deadline: Option<u64> },
    /// The supervisor's first heartbeat was accepted.
    Running,
    /// The run is to end.
    Stopping { reason: &'static str },
    /// It was stopped.
    Stopped { reason: &'a str, exit_code: Option<i32> },
    /// The agent finished by itself.
    Completed { exit_code: Option<i32> },
    /// It failed.
    Failed { reason: &'a str, message: &'a str, exit_code: Option<i32> },
}

/// The run that the status speaks of.
pub(super) fn run_of(session: &Session) -> u64 {
    session.status.as_ref().and_then(|status| status.run).unwrap_or(session.spec.run)
}

/// The status after this change.
pub(super) fn next(session: &Session, change: &Change<'_>, now: Timestamp) -> SessionStatus {
    let mut status = session.status.clone().unwrap_or_default();
    let generation = session.metadata.generation;
    status.observed_generation = generation;
    let mut say = |kind: &str, yes: bool, reason: &str, message: &str| {
        merge_condition(&mut status.conditions, condition(kind, yes, reason, message, generation, now));
    };
    match change {
        Change::Seen => {}
        Change::Pending => {
            say("Ready", false, "Pending", "a new run is asked for");
            say("Finished", false, "Pending", "");
            say("PodCreated", false, "Pending", "");
            status.phase = Phase::Pending;
            status.run = Some(session.spec.run);
            (status.start_time, status.completion_time, status.exit_code) = (None, None, None);
            (status.stopped_reason, status.pod, status.timeout) = (None, None, None);
        }
        Change::Creating { deadline } => {
            say("PodCreated", true, "Created", "");
            say("Ready", false, "Creating", "the supervisor's first heartbeat is awaited");
            status.conditions.retain(|condition| condition.type_ != "Blocked");
            let run = run_of(session);
            status.phase = Phase::Creating;
            status.run = Some(run);
            status.pod = Some(names::pod_name(session.metadata.name.as_deref().unwrap_or_default(), run));
            status.start_time = Some(Time(now));
            status.timeout = deadline.map(Span::from_secs);
            status.attempts += 1;
        }
        Change::Running => {
            say("Ready", true, "Running", "");
            status.phase = Phase::Running;
        }
        Change::Stopping { reason } => {
            say("Ready", false, "Stopping", "");
            status.phase = Phase::Stopping;
            status.stopped_reason = Some((*reason).to_owned());
        }
        Change::Stopped { reason, exit_code } => {
            say("Ready", false, "Stopped", "");
            say("Finished", true, reason, "");
            finish(&mut status, Phase::Stopped, reason, *exit_code, now);
        }
        Change::Completed { exit_code } => {
            say("Ready", false, "Completed", "");
            say("Finished", true, "Finished", "");
            finish(&mut status, Phase::Completed, "Finished", *exit_code, now);
        }
        Change::Failed { reason, message, exit_code } => {
            if status.phase == Phase::Pending {
                say("PodCreated", false, reason, message);
            }
            say("Ready", false, reason, message);
            say("Finished", true, reason, message);
            finish(&mut status, Phase::Failed, reason, *exit_code, now);
        }
    }
    status
}

fn finish(status: &mut SessionStatus, phase: Phase, reason: &str, exit_code: Option<i32>, now: Timestamp) {
    status.phase = phase;
    status.stopped_reason = Some(reason.to_owned());
    status.exit_code = exit_code;
    status.completion_time = Some(Time(now));
    status.conditions.retain(|condition| condition.type_ != "Blocked");
}

/// The status of a session that the quota keeps back; `None` when it says so already.
pub(super) fn blocked(session: &Session, message: &str, now: Timestamp) -> Option<SessionStatus> {
    let mut status = session.status.clone().unwrap_or_default();
    if status.conditions.iter().any(|condition| condition.type_ == "Blocked") {
        return None;
    }
    status.observed_generation = session.metadata.generation;
    let new = condition("Blocked", true, "QuotaExceeded", message, session.metadata.generation, now);
    merge_condition(&mut status.conditions, new);
    Some(status)
}

fn condition(kind: &str, yes: bool, reason: &str, message: &str, generation: Option<i64>, now: Timestamp) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: if yes { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(now),
        observed_generation: generation,
    }
}

/// The merge patch that makes this the status, on the version that was read. What the API itself keeps, the last
/// message and activity, is left out.
pub(super) fn patch(session: &Session, new: &SessionStatus) -> Value {
    json!({
        "metadata": { "resourceVersion": session.metadata.resource_version },
        "status": {
            "phase": new.phase,
            "run": new.run,
            "observedGeneration": new.observed_generation,
            "startTime": new.start_time,
            "timeout": new.timeout,
            "completionTime": new.completion_time,
            "stoppedReason": new.stopped_reason,
            "pod": new.pod,
            "node": new.node,
            "attempts": new.attempts,
            "exitCode": new.exit_code,
            "conditions": new.conditions,
        },
    })
}
