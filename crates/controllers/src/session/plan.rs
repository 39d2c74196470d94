//! What is to be done about a session, from what was read and the time alone.

use std::time::Duration;

use mainstay_api::names;
use mainstay_api::phase::Phase;
use mainstay_api::session::{DEFAULT_INACTIVITY_TIMEOUT, DesiredState, Session, SessionStatus};
use mainstay_api::span::Span;
use mainstay_runtime::Timestamp;

use super::observe::{End, Observed, PodView};
use super::status::{self, Change};
use super::{Action, pod};
use crate::reconcile::{Next, Plan};

/// From the Pod's making to the first heartbeat.
const CREATION_DEADLINE: Duration = Duration::from_mins(1);
/// Stored times are cut to whole seconds; half of one keeps the error of a due time below that to either side.
const ROUNDING: Duration = Duration::from_millis(500);
/// A heartbeat this old still says whether a tool call is in progress.
const FRESH: Duration = Duration::from_mins(1);

/// A status was written of which no event will wake us: go on at once.
const AT_ONCE: Next = Next::After(Duration::ZERO);

pub(super) fn plan(session: &Session, observed: &Observed, now: Timestamp) -> Plan<Action> {
    let case = Case { session, status: session.status.clone().unwrap_or_default(), observed, now };
    if session.metadata.deletion_timestamp.is_some() {
        return case.deleting();
    }
    match case.status.phase {
        Phase::Pending => case.pending(),
        Phase::Creating | Phase::Running => case.live(),
        Phase::Stopping => case.stopping(),
        Phase::Stopped | Phase::Completed | Phase::Failed => case.ended(),
    }
}

const LOST: Change<'static> = Change::Failed {
    reason: "PodLost",
    message: "its Pod is gone and left no record; what has begun is never begun again",
    exit_code: None,
};

struct Case<'a> {
    session: &'a Session,
    status: SessionStatus,
    observed: &'a Observed,
    now: Timestamp,
}

impl Case<'_> {
    fn write(&self, change: &Change<'_>) -> Action {
        let mut status = status::next(self.session, change, self.now);
        let given = self.observed.pod.as_ref().filter(|pod| pod.ours).and_then(|pod| pod.node.as_ref());
        if let Some(node) = given.or(self.observed.node.as_ref()) {
            status.node = Some(node.clone());
        }
        Action::WriteStatus(Box::new(status))
    }

    fn only(&self, change: &Change<'_>, next: Next) -> Plan<Action> {
        Plan::act([self.write(change)], next)
    }

    /// The run is over: if somebody deletes its Pod, that may go now.
    fn over(&self, change: &Change<'_>) -> Plan<Action> {
        let pod = self.observed.pod.as_ref().filter(|pod| pod.ours && pod.held && pod.deleting);
        let release = pod.map(|pod| Action::ReleasePod(pod.name.clone(), pod.uid.clone()));
        let actions: Vec<Action> = [self.write(change)].into_iter().chain(release).collect();
        Plan::act(actions, Next::AwaitChange)
    }

    /// Nothing to do but, perhaps, to say that the newest spec was looked at.
    fn settled(&self, next: Next) -> Plan<Action> {
        let seen = self.status.observed_generation.is_none()
            || self.status.observed_generation == self.session.metadata.generation;
        if seen { Plan::settled(next) } else { self.only(&Change::Seen, next) }
    }

    fn pending(&self) -> Plan<Action> {
        let run = status::run_of(self.session);
        match &self.observed.pod {
            Some(pod) if pod.ours => return self.only(&Change::Creating { deadline: pod.deadline }, AT_ONCE),
            Some(pod) => {
                let message = format!("Pod {:?} is not this session's", pod.name);
                return self.only(
                    &Change::Failed { reason: "PodNameTaken", message: &message, exit_code: None },
                    Next::AwaitChange,
                );
            }
            None => {}
        }
        if self.session.spec.desired_state == DesiredState::Stopped {
            return self.only(&Change::Stopped { reason: "User", exit_code: None }, Next::AwaitChange);
        }
        if self.observed.heartbeat.run >= run {
            return self.only(&LOST, Next::AwaitChange);
        }
        if !self.observed.others.is_empty() {
            // What is left of earlier runs goes first: they may share the workspace.
            return Plan::act(delete_all(&self.observed.others), Next::AwaitChange);
        }
        if let Some(missing) = &self.observed.missing {
            let change = Change::Failed { reason: missing.reason, message: &missing.message, exit_code: None };
            return self.only(&change, Next::AwaitChange);
        }
        self.create(run)
    }

    fn create(&self, run: u64) -> Plan<Action> {
        let parts = pod::Parts {
            session: self.session,
            project: self.observed.project.as_ref(),
            agent: self.observed.agent.as_ref(),
            run,
            node: self.observed.node.as_deref(),
        };
        let Some(pod) = parts.pod() else {
            let message = "neither the session nor its agent names a command";
            let change = Change::Failed { reason: "NoCommand", message, exit_code: None };
            return self.only(&change, Next::AwaitChange);
        };
        let creating = self.write(&Change::Creating { deadline: pod.spec.active_deadline_seconds });
        let prompt = parts.prompt().filter(|_| self.status.attempts == 0);
        let actions: Vec<Action> = prompt
            .map(|prompt| Action::SendPrompt(prompt, self.now))
            .into_iter()
            .chain([Action::CreatePod(Box::new(pod), self.now), creating])
            .collect();
        Plan::act(actions, Next::After(CREATION_DEADLINE))
    }

    fn live(&self) -> Plan<Action> {
        let Some(pod) = self.observed.pod.as_ref().filter(|pod| pod.ours) else {
            return self.only(&LOST, Next::AwaitChange);
        };
        if let Some(end) = &pod.end {
            return self.judge(end);
        }
        if pod.deleting || pod.stopping {
            // Somebody else told it to stop; what it records decides.
            return self.settled(Next::AwaitChange);
        }
        if self.session.spec.desired_state == DesiredState::Stopped {
            return self.stop(pod, "User");
        }
        let Some((due, reason)) = self.first_due() else {
            return self.go_on(pod, Next::AwaitChange);
        };
        match Duration::try_from(due.duration_since(self.now)) {
            Ok(left) if !left.is_zero() => self.go_on(pod, Next::After(left)),
            _ => self.stop(pod, reason),
        }
    }

    fn go_on(&self, pod: &PodView, next: Next) -> Plan<Action> {
        if pod.ready && self.status.phase == Phase::Creating {
            // Other limits hold from now on.
            return self.only(&Change::Running, AT_ONCE);
        }
        self.settled(next)
    }

    fn stop(&self, pod: &PodView, reason: &'static str) -> Plan<Action> {
        let actions = [self.write(&Change::Stopping { reason }), stop(pod)];
        Plan::act(actions, Next::AwaitChange)
    }

    /// The run's end, by what its Pod recorded.
    fn judge(&self, end: &End) -> Plan<Action> {
        let exit_code = end.exit_code;
        match end.reason.as_str() {
            _ if end.succeeded => self.over(&Change::Completed { exit_code }),
            "DeadlineExceeded" => self.only(&Change::Stopping { reason: "Timeout" }, AT_ONCE),
            "Stopped" => {
                let message = "its Pod was deleted while it ran";
                self.over(&Change::Failed { reason: "PodDeleted", message, exit_code })
            }
            reason => self.over(&Change::Failed { reason, message: &end.message, exit_code }),
        }
    }

    fn stopping(&self) -> Plan<Action> {
        let pod = self.observed.pod.as_ref().filter(|pod| pod.ours);
        let reason = self.status.stopped_reason.as_deref().unwrap_or("User");
        match pod {
            Some(pod) if pod.end.is_none() && (pod.deleting || pod.stopping) => self.settled(Next::AwaitChange),
            Some(pod) if pod.end.is_none() => Plan::act([stop(pod)], Next::AwaitChange),
            ended => {
                let exit_code = ended.and_then(|pod| pod.end.as_ref()?.exit_code);
                let change = if reason == status::CREATION_DEADLINE_EXCEEDED {
                    let message = "no heartbeat of its supervisor was accepted in time";
                    Change::Failed { reason: status::CREATION_DEADLINE_EXCEEDED, message, exit_code }
                } else {
                    Change::Stopped { reason, exit_code }
                };
                self.over(&change)
            }
        }
    }

    fn ended(&self) -> Plan<Action> {
        let wanted = self.session.spec.desired_state == DesiredState::Running;
        if wanted && self.session.spec.run > status::run_of(self.session) {
            return self.only(&Change::Pending, AT_ONCE);
        }
        self.settled(Next::AwaitChange)
    }

    fn deleting(&self) -> Plan<Action> {
        let held = self.session.metadata.finalizers.iter().flatten().any(|name| name == names::SESSION_FINALIZER);
        if self.observed.others.is_empty() {
            let actions = if held { vec![Action::RemoveFinalizer] } else { Vec::new() };
            return Plan::act(actions, Next::AwaitChange);
        }
        let mut actions = Vec::new();
        let running = self.observed.others.iter().any(|pod| pod.end.is_none());
        if running && matches!(self.status.phase, Phase::Creating | Phase::Running) {
            actions.push(self.write(&Change::Stopping { reason: "Deleted" }));
        }
        actions.extend(delete_all(&self.observed.others));
        Plan::act(actions, Next::AwaitChange)
    }

    /// The limit that is met first, and its reason.
    fn first_due(&self) -> Option<(Timestamp, &'static str)> {
        let start = self.rebase(self.status.start_time.as_ref()?.0);
        let defaults = self.observed.project.as_ref().map(|project| &project.spec.session_defaults);
        let spec = &self.session.spec;
        // Its sandbox ends it at its own deadline, whatever was asked for since.
        let asked = spec.timeout.or_else(|| defaults?.timeout);
        let timeout = [asked, self.status.timeout].into_iter().flatten().filter_map(Span::limit).min();
        let inactivity =
            spec.inactivity_timeout.or_else(|| defaults?.inactivity_timeout).unwrap_or(DEFAULT_INACTIVITY_TIMEOUT);
        let due = |from: Timestamp, span: Duration, reason: &'static str| {
            let span = span.saturating_add(ROUNDING);
            from.checked_add(span).ok().map(|due| (due, reason))
        };
        // The limits of silence are not met before there was time to speak.
        let heard = self.now.checked_add(self.observed.settling).unwrap_or(self.now);
        let silence = if self.status.phase == Phase::Creating {
            due(start, CREATION_DEADLINE, status::CREATION_DEADLINE_EXCEEDED)
        } else {
            inactivity.limit().and_then(|span| due(self.last_activity(start), span, "Inactivity"))
        };
        let silence = silence.map(|(due, reason)| (due.max(heard), reason));
        let timeout = timeout.and_then(|span| due(start, span, "Timeout"));
        [timeout, silence].into_iter().flatten().min_by_key(|(due, _)| *due)
    }

    /// The last message either way, or now while a tool call is in progress.
    fn last_activity(&self, start: Timestamp) -> Timestamp {
        let beat = &self.observed.heartbeat;
        let fresh =
            beat.time.is_some_and(|time| self.rebase(time).checked_add(FRESH).is_ok_and(|until| until > self.now));
        if beat.busy && fresh && beat.run == status::run_of(self.session) {
            return self.now;
        }
        self.status.last_activity_time.as_ref().map_or(start, |time| self.rebase(time.0).max(start))
    }

    fn rebase(&self, stored: Timestamp) -> Timestamp {
        self.observed.timeline.rebase(stored, self.now)
    }
}

/// It stays, so that its log can be read until the next run, or as long as the session is there.
fn stop(pod: &PodView) -> Action {
    Action::StopPod(pod.name.clone(), pod.uid.clone())
}

fn delete(pod: &PodView) -> Action {
    Action::DeletePod(pod.name.clone(), pod.uid.clone())
}

/// Tells all that were not told yet.
fn delete_all(pods: &[PodView]) -> Vec<Action> {
    pods.iter().filter(|pod| !pod.deleting).map(delete).collect()
}
