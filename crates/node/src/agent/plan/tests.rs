use serde_json::{Value, json};

use super::*;
use crate::launch::{EffectiveIsolation, ExitRecord, Isolation, PodRef, SessionRef};

const NOW: &str = "2026-01-01T00:00:10Z";
const STARTED: &str = "2026-01-01T00:00:00Z";

fn pod(change: impl FnOnce(&mut Value)) -> Desired {
    let mut object = json!({
        "metadata": {
            "name": "fix-1", "namespace": "web", "uid": "u-1", "resourceVersion": "7",
            "finalizers": ["mainstay.dev/node"],
            "labels": { "mainstay.dev/session": "fix" },
            "annotations": { "mainstay.dev/session-uid": "s-1", "mainstay.dev/run": "1" }
        },
        "spec": { "containers": [{ "name": "agent", "command": ["true"] }], "terminationGracePeriodSeconds": 7 },
        "status": { "phase": "Pending" }
    });
    change(&mut object);
    Desired::Pod(Box::new(View::new(serde_json::from_value(object).unwrap()).unwrap()))
}

fn deleted(object: &mut Value) {
    object["metadata"]["deletionTimestamp"] = json!(STARTED);
}

fn seen(look: Look) -> Observed {
    Observed {
        look,
        unrecorded_for: Duration::MAX,
        served: true,
        heard: false,
        running_for: Duration::ZERO,
        told_to_stop: None,
        prepared: true,
        token_due: false,
    }
}

fn live() -> Look {
    Look::Live(Some(Box::new(state())))
}

fn state() -> RunState {
    let pod = PodRef { namespace: "web".into(), name: "fix-1".into(), uid: "u-1".into() };
    let session = Some(SessionRef { name: "fix".into(), uid: "s-1".into(), run: 1, stop_on_finish: false });
    RunState {
        pod,
        session,
        boot_id: String::new(),
        shim_pid: 1,
        init_pid: Some(2),
        uid_base: 0,
        started_at: Some(STARTED.into()),
        isolation: EffectiveIsolation { asked: Isolation::None, in_force: Vec::new() },
        fence: 1,
        cgroups: Vec::new(),
    }
}

fn ended(reason: ExitReason) -> Look {
    let record = ExitRecord {
        pod: state().pod,
        reason,
        exit_code: None,
        signal: Some(9),
        message: "why".into(),
        started_at: Some(STARTED.into()),
        finished_at: NOW.into(),
    };
    Look::Ended(Box::new(record), Some(Box::new(state())))
}

/// The plan in words: each action, with what a report says.
fn words(desired: &Desired, seen: &Observed) -> Vec<String> {
    let plan = plan(desired, seen, NOW.parse().unwrap());
    let mut words: Vec<String> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::Report(status) => {
                let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
                let ready = ready.map_or("?", |ready| &ready.status);
                format!(
                    "{} {} ready={ready}",
                    status.phase.as_deref().unwrap(),
                    status.reason.as_deref().unwrap_or("-")
                )
            }
            other => format!("{other:?}"),
        })
        .collect();
    words.push(match plan.next {
        Next::Now => "look".into(),
        Next::Never => "forget".into(),
        Next::After(RESYNC) => "rest".into(),
        Next::After(time) => format!("{time:?}"),
    });
    words
}

#[test]
fn a_pod_goes_from_claim_to_ready() {
    let absent = seen(Look::Absent);
    assert_eq!(words(&pod(|pod| pod["metadata"]["finalizers"] = json!([])), &absent), ["Claim", "look"]);
    assert_eq!(words(&pod(|_| ()), &absent), ["Start", "look"]);
    assert_eq!(words(&pod(|_| ()), &Observed { served: false, ..seen(live()) }), ["Serve", "look"]);
    assert_eq!(words(&pod(|_| ()), &seen(Look::Live(None))), ["rest"], "claimed, not started yet");
    assert_eq!(words(&pod(|_| ()), &seen(live())), ["500ms"], "one write is to say Running and Ready");
    assert_eq!(words(&pod(|_| ()), &Observed { heard: true, ..seen(live()) }), ["Running - ready=True", "rest"]);
    let slow = Observed { running_for: PATIENCE, ..seen(live()) };
    assert_eq!(words(&pod(|_| ()), &slow), ["Running - ready=False", "rest"]);
    let by_hand = pod(|pod| pod["metadata"]["labels"] = json!({}));
    assert_eq!(words(&by_hand, &seen(live())), ["Running - ready=True", "rest"]);
}

#[test]
fn what_is_reported_is_not_reported_again() {
    let heard = Observed { heard: true, ..seen(live()) };
    let Action::Report(status) = plan(&pod(|_| ()), &heard, NOW.parse().unwrap()).actions.remove(0) else { panic!() };
    let reported = pod(|pod| pod["status"] = serde_json::to_value(&status).unwrap());
    assert_eq!(words(&reported, &heard), ["rest"]);
    let adopted = Observed { heard: false, ..seen(live()) };
    assert_eq!(words(&reported, &adopted), ["rest"], "what was ready stays so after a restart");
    assert_eq!(words(&reported, &Observed { token_due: true, ..adopted }), ["RenewToken", "rest"]);
}

#[test]
fn an_end_is_reported_and_never_run_again() {
    for (look, expected) in [
        (ended(ExitReason::Completed), "Succeeded Completed ready=False"),
        (ended(ExitReason::Error), "Failed Error ready=False"),
        (ended(ExitReason::Stopped), "Failed Stopped ready=False"),
        (ended(ExitReason::OOMKilled), "Failed OOMKilled ready=False"),
        (ended(ExitReason::DeadlineExceeded), "Failed DeadlineExceeded ready=False"),
        (ended(ExitReason::CreationFailed), "Failed CreationFailed ready=False"),
        (Look::Unrecorded(None), "Failed Lost ready=False"),
    ] {
        assert_eq!(words(&pod(|_| ()), &seen(look.clone())), [expected, "look"]);
        assert_eq!(words(&pod(deleted), &seen(look)), [expected, "look"]);
    }
    let ran = pod(|pod| pod["status"]["phase"] = json!("Running"));
    assert_eq!(words(&ran, &seen(Look::Absent)), ["Failed Lost ready=False", "look"]);
    let finished = pod(|pod| pod["status"]["phase"] = json!("Failed"));
    assert_eq!(words(&finished, &seen(Look::Absent)), ["Release", "rest"], "R14: what finished is never run again");
    let young = Observed { unrecorded_for: Duration::ZERO, ..seen(Look::Unrecorded(None)) };
    assert_eq!(words(&pod(|_| ()), &young), ["500ms"], "a shim between mkdir and lock is not lost");
}

#[test]
fn a_deleted_pod_is_stopped_reported_cleaned_and_released_in_this_order() {
    assert_eq!(words(&pod(deleted), &seen(live())), ["Stop(7)", "rest"]);
    let told = |grace| Observed { told_to_stop: Some(grace), ..seen(live()) };
    assert_eq!(words(&pod(deleted), &told(7)), ["rest"]);
    assert_eq!(words(&pod(deleted), &told(30)), ["Stop(7)", "rest"], "a shorter grace period is passed on");
    let shorter = pod(|pod| {
        deleted(pod);
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    });
    assert_eq!(words(&shorter, &told(7)), ["Stop(0)", "rest"]);
    assert_eq!(words(&pod(deleted), &seen(Look::Absent)), ["Failed Stopped ready=False", "look"]);
    let finished = pod(|pod| {
        deleted(pod);
        pod["status"]["phase"] = json!("Failed");
    });
    assert_eq!(words(&finished, &seen(ended(ExitReason::Stopped))), ["CleanUp", "Unclaim", "rest"]);
    let unclaimed = pod(|pod| {
        deleted(pod);
        pod["metadata"]["finalizers"] = json!(["somebody.else/s"]);
    });
    assert_eq!(words(&unclaimed, &seen(Look::Absent)), ["rest"]);
}

#[test]
fn a_pod_that_is_told_to_stop_and_stay_keeps_its_log() {
    let told = |phase: &'static str| {
        pod(move |pod| {
            pod["metadata"]["annotations"]["mainstay.dev/stop"] = json!("true");
            pod["status"]["phase"] = json!(phase);
        })
    };
    assert_eq!(words(&told("Running"), &seen(live())), ["Stop(7)", "rest"]);
    assert_eq!(words(&told("Running"), &Observed { told_to_stop: Some(7), ..seen(live()) }), ["rest"]);
    assert_eq!(words(&told("Pending"), &seen(Look::Absent)), ["Failed Stopped ready=False", "look"]);
    assert_eq!(words(&told("Running"), &seen(ended(ExitReason::Stopped))), ["Failed Stopped ready=False", "look"]);
    assert_eq!(words(&told("Failed"), &seen(ended(ExitReason::Stopped))), ["Release", "rest"]);
}

#[test]
fn what_has_no_object_is_ended_only_after_a_live_read() {
    let (suspected, gone) = (Desired::Gone { confirmed: false }, Desired::Gone { confirmed: true });
    for look in [live(), Look::Absent, Look::Unrecorded(None), ended(ExitReason::Completed)] {
        assert_eq!(words(&suspected, &seen(look)), ["Confirm", "look"]);
    }
    assert_eq!(words(&gone, &Observed { served: false, ..seen(live()) }), ["Serve", "look"]);
    assert_eq!(words(&gone, &seen(live())), ["Stop(0)", "rest"]);
    assert_eq!(words(&gone, &Observed { told_to_stop: Some(0), ..seen(live()) }), ["rest"]);
    assert_eq!(words(&gone, &seen(Look::Unrecorded(None))), ["CleanUp", "forget"]);
    assert_eq!(words(&gone, &seen(Look::Absent)), ["CleanUp", "forget"]);
    assert_eq!(words(&suspected, &Observed { prepared: false, ..seen(Look::Absent) }), ["forget"], "nothing is left");
}
