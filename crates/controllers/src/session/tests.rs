use mainstay_api::phase::Phase;
use serde_json::{Value, json};

use super::observe::{End, Heartbeat, Missing, PodView};
use super::status::Change;
use super::*;

const NOW: &str = "2026-01-01T01:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A session in this phase and run 1, begun at 01:00:00, with these changes to the whole object.
fn session(phase: Phase, changes: &Value) -> Session {
    let mut object = json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session",
        "metadata": { "name": "fix", "namespace": "demo", "uid": "s-1", "generation": 1, "resourceVersion": "7",
                      "finalizers": ["mainstay.dev/session"] },
        "spec": { "prompt": "fix it", "command": ["sh"] },
        "status": { "phase": phase, "run": 1, "attempts": u8::from(phase != Phase::Pending), "observedGeneration": 1 },
    });
    if phase != Phase::Pending {
        object["status"]["startTime"] = json!(NOW);
    }
    json_patch::merge(&mut object, changes);
    serde_json::from_value(object).unwrap()
}

fn pod() -> PodView {
    PodView { name: "fix-1".into(), uid: "p-1".into(), ours: true, ..PodView::default() }
}

fn ended(reason: &str, exit_code: i32) -> Observed {
    let succeeded = reason == "Completed";
    let end = End { succeeded, reason: reason.into(), message: "why".into(), exit_code: Some(exit_code) };
    Observed { pod: Some(PodView { end: Some(end), ..pod() }), ..Observed::default() }
}

fn with(pod: PodView) -> Observed {
    Observed { pod: Some(pod), ..Observed::default() }
}

/// The plan in a few words: each action, then when to look again.
fn words(session: &Session, observed: &Observed, at: Timestamp) -> String {
    let plan = SessionReconciler::plan(session, observed, at);
    let mut words: Vec<String> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::SendPrompt(text, _) => format!("prompt({text})"),
            Action::CreatePod(pod, _) => format!("create({})", pod.metadata.name.as_deref().unwrap()),
            Action::StopPod(name, uid) => format!("stop({name} {uid})"),
            Action::DeletePod(name, uid) => format!("delete({name} {uid})"),
            Action::ReleasePod(name, uid) => format!("let go({name} {uid})"),
            Action::RemoveFinalizer => "release".to_owned(),
            Action::WriteStatus(new) => {
                let old = session.status.clone().unwrap_or_default();
                assert!(old.phase.may_become(new.phase), "{} -> {}", old.phase, new.phase);
                let reason = new.stopped_reason.clone().map_or(String::new(), |reason| format!(" {reason}"));
                format!("{}{reason} {}", new.phase, new.run.unwrap_or(0))
            }
        })
        .collect();
    words.push(match plan.next {
        Next::AwaitChange => "wait".to_owned(),
        Next::After(span) => format!("after {}s", span.as_secs_f64()),
    });
    words.join(", ")
}

fn check(name: &str, session: &Session, observed: &Observed, expected: &str) {
    assert_eq!(words(session, observed, now()), expected, "{name}");
}

/// R32.
#[test]
fn a_pending_session_gets_its_prompt_and_its_pod() {
    let pending = |changes: &Value| session(Phase::Pending, changes);
    let none = Observed::default();
    check("a new one", &pending(&json!({})), &none, "prompt(fix it), create(fix-1), Creating 1, after 60s");
    check(
        "without words",
        &pending(&json!({ "spec": { "prompt": null } })),
        &none,
        "create(fix-1), Creating 1, after 60s",
    );
    let second = pending(&json!({ "spec": { "run": 2 }, "status": { "run": 2, "attempts": 1 } }));
    check("a second run has had its prompt", &second, &none, "create(fix-2), Creating 2, after 60s");
    check(
        "stopped before it began",
        &pending(&json!({ "spec": { "desiredState": "Stopped" } })),
        &none,
        "Stopped User 1, wait",
    );
    check("nothing to run", &pending(&json!({ "spec": { "command": null } })), &none, "Failed NoCommand 1, wait");
    check("made before a crash", &pending(&json!({})), &with(pod()), "Creating 1, after 0s");
    let foreign = with(PodView { ours: false, ..pod() });
    check("a foreign Pod of its name", &pending(&json!({})), &foreign, "Failed PodNameTaken 1, wait");
    let begun = Observed { heartbeat: Heartbeat { run: 1, ..Heartbeat::default() }, ..Observed::default() };
    check("R14: begun before, its Pod gone", &pending(&json!({})), &begun, "Failed PodLost 1, wait");
    let old = PodView { name: "fix-1".into(), uid: "p-0".into(), ..pod() };
    let leftover = Observed { others: vec![old.clone()], ..Observed::default() };
    check("an earlier run's Pod goes first", &second, &leftover, "delete(fix-1 p-0), wait");
    let going = Observed { others: vec![PodView { deleting: true, ..old }], ..Observed::default() };
    check("and is waited for", &second, &going, "wait");
    let missing = Missing { reason: "AgentNotFound", message: "Agent \"x\" does not exist".into() };
    let observed = Observed { missing: Some(missing), ..Observed::default() };
    check("R18: what it names is not there", &pending(&json!({})), &observed, "Failed AgentNotFound 1, wait");
}

/// R38.
#[test]
fn a_live_session_is_judged_by_its_pod() {
    for phase in [Phase::Creating, Phase::Running] {
        let live = session(phase, &json!({}));
        check("completed", &live, &ended("Completed", 0), "Completed Finished 1, wait");
        check("failed", &live, &ended("Error", 3), "Failed Error 1, wait");
        check("out of memory", &live, &ended("OOMKilled", 137), "Failed OOMKilled 1, wait");
        check("lost by the node", &live, &ended("Lost", 128), "Failed Lost 1, wait");
        check("the shim's own deadline", &live, &ended("DeadlineExceeded", 143), "Stopping Timeout 1, after 0s");
        check("deleted by somebody", &live, &ended("Stopped", 143), "Failed PodDeleted 1, wait");
        check("R45: its Pod is missing", &live, &Observed::default(), "Failed PodLost 1, wait");
        check("a Pod of its name made anew", &live, &with(PodView { ours: false, ..pod() }), "Failed PodLost 1, wait");
        let going = with(PodView { deleting: true, ..pod() });
        check("somebody deletes its Pod", &live, &going, "wait");
        check("somebody stops its Pod", &live, &with(PodView { stopping: true, ..pod() }), "wait");
        let stop = session(phase, &json!({ "spec": { "desiredState": "Stopped" } }));
        check("told to stop", &stop, &with(pod()), "Stopping User 1, stop(fix-1 p-1), wait");
        check("told to stop as it finished", &stop, &ended("Completed", 0), "Completed Finished 1, wait");
    }
    let ready = with(PodView { ready: true, ..pod() });
    check("its first heartbeat", &session(Phase::Creating, &json!({})), &ready, "Running 1, after 0s");
    check("no heartbeat yet", &session(Phase::Creating, &json!({})), &with(pod()), "after 60.5s");
    let edited =
        session(Phase::Running, &json!({ "metadata": { "generation": 2 }, "spec": { "inactivityTimeout": 0 } }));
    check("a new spec is acknowledged", &edited, &ready, "Running 1, wait");
}

/// R45: a Pod that is deleted by hand is there until its record is judged, and goes in the same breath.
#[test]
fn a_deleted_pod_goes_once_its_end_is_judged() {
    let gone = |reason: &str, code: i32| {
        let mut observed = ended(reason, code);
        let pod = observed.pod.as_mut().unwrap();
        (pod.deleting, pod.held) = (true, true);
        observed
    };
    let let_go = "let go(fix-1 p-1), wait";
    for phase in [Phase::Creating, Phase::Running] {
        let live = session(phase, &json!({}));
        check("stopped by it", &live, &gone("Stopped", 143), &format!("Failed PodDeleted 1, {let_go}"));
        check("finished before", &live, &gone("Completed", 0), &format!("Completed Finished 1, {let_go}"));
        check("failed before", &live, &gone("Error", 3), &format!("Failed Error 1, {let_go}"));
    }
    let stopping = session(Phase::Stopping, &json!({ "status": { "stoppedReason": "User" } }));
    check("stopped as asked", &stopping, &gone("Stopped", 143), &format!("Stopped User 1, {let_go}"));
    let mut released = gone("Stopped", 143);
    released.pod.as_mut().unwrap().held = false;
    check("held by others", &stopping, &released, "Stopped User 1, wait");
}

/// R29.
#[test]
fn limits_act_when_they_are_due_and_not_before() {
    let ready = with(PodView { ready: true, ..pod() });
    let at = |seconds: f64| now() + Duration::from_secs_f64(seconds);
    let spec = |spec: &Value| session(Phase::Running, &json!({ "spec": spec }));
    let timed = spec(&json!({ "timeout": "90s" }));
    assert_eq!(words(&timed, &ready, at(10.0)), "after 80.5s");
    assert_eq!(words(&timed, &ready, at(90.4)), "after 0.1s");
    assert_eq!(words(&timed, &ready, at(90.5)), "Stopping Timeout 1, stop(fix-1 p-1), wait");
    let idle = spec(&json!({ "inactivityTimeout": 60 }));
    assert_eq!(words(&idle, &ready, at(60.5)), "Stopping Inactivity 1, stop(fix-1 p-1), wait");
    let mut active = idle.clone();
    active.status.as_mut().unwrap().last_activity_time = serde_json::from_value(json!("2026-01-01T01:00:30Z")).unwrap();
    assert_eq!(words(&active, &ready, at(60.5)), "after 30s", "a message came meanwhile");
    let beat = |busy, run| Heartbeat { run, busy, time: Some(at(55.0)) };
    let busy = Observed { heartbeat: beat(true, 1), ..ready.clone() };
    assert_eq!(words(&idle, &busy, at(60.5)), "after 60.5s", "a tool call is in progress");
    assert_eq!(words(&idle, &busy, at(200.0)), "Stopping Inactivity 1, stop(fix-1 p-1), wait", "its word is old");
    let other = Observed { heartbeat: beat(true, 2), ..ready.clone() };
    assert_eq!(words(&idle, &other, at(60.5)), "Stopping Inactivity 1, stop(fix-1 p-1), wait", "another run's");
    assert_eq!(words(&spec(&json!({})), &ready, at(0.0)), "after 86400.5s", "24 h when nobody says otherwise");
    assert_eq!(words(&spec(&json!({ "inactivityTimeout": 0 })), &ready, at(0.0)), "wait", "0 = never");
    let soon = Observed { settling: Duration::from_secs(2), ..ready.clone() };
    assert_eq!(words(&idle, &soon, at(70.0)), "after 2s", "nobody could say anything until now");
    assert_eq!(words(&timed, &soon, at(90.5)), "Stopping Timeout 1, stop(fix-1 p-1), wait", "silence or not");
    let late = session(Phase::Creating, &json!({}));
    assert_eq!(words(&late, &Observed { settling: Duration::from_secs(2), ..with(pod()) }, at(70.0)), "after 2s");
    assert_eq!(words(&late, &with(pod()), at(60.5)), "Stopping CreationDeadlineExceeded 1, stop(fix-1 p-1), wait");
}

/// R13: session > project > 24 h.
#[test]
fn a_projects_limits_hold_where_the_session_says_nothing() {
    let project =
        json!({ "metadata": {}, "spec": { "sessionDefaults": { "timeout": "1h", "inactivityTimeout": "5m" } } });
    let project = serde_json::from_value(project).unwrap();
    let observed = Observed { project: Some(project), ..with(PodView { ready: true, ..pod() }) };
    check("the project's", &session(Phase::Running, &json!({})), &observed, "after 300.5s");
    let own = session(Phase::Running, &json!({ "spec": { "inactivityTimeout": 0 } }));
    check("its own, then the project's", &own, &observed, "after 3600.5s");
    let never = session(Phase::Running, &json!({ "spec": { "inactivityTimeout": 0, "timeout": 0 } }));
    check("0 overrides the project's", &never, &observed, "wait");
}

/// R50: a run's sandbox holds what it was started with; what is shortened meanwhile acts, what is raised does not.
#[test]
fn a_run_lives_no_longer_than_its_sandbox_was_given() {
    let limited = |spec: Value, defaults: Value| {
        let status = json!({ "timeout": "1h" });
        let running = session(Phase::Running, &json!({ "spec": spec, "status": status }));
        let project = json!({ "metadata": {}, "spec": { "sessionDefaults": defaults } });
        let project = Some(serde_json::from_value(project).unwrap());
        let observed = Observed { project, ..with(PodView { ready: true, ..pod() }) };
        words(&running, &observed, now())
    };
    let own = |timeout: Value| json!({ "inactivityTimeout": 0, "timeout": timeout });
    assert_eq!(limited(own(Value::Null), json!({ "timeout": "1h" })), "after 3600.5s");
    assert_eq!(limited(own(Value::Null), json!({ "timeout": "3h" })), "after 3600.5s", "the project's was raised");
    assert_eq!(limited(own(Value::Null), json!({})), "after 3600.5s", "or taken back");
    assert_eq!(limited(own(Value::Null), json!({ "timeout": "5m" })), "after 300.5s", "or shortened");
    assert_eq!(limited(own(json!("1m")), json!({ "timeout": "5m" })), "after 60.5s", "its own was shortened");
    let made = PodView { deadline: Some(3_600), ..pod() };
    for (name, observed) in [("at once", Observed::default()), ("before a crash", with(made))] {
        let pending = session(Phase::Pending, &json!({ "spec": { "timeout": "1h" } }));
        let plan = SessionReconciler::plan(&pending, &observed, now());
        let Some(Action::WriteStatus(status)) = plan.actions.last() else { panic!("{name}: {plan:?}") };
        assert_eq!(json!(status)["timeout"], "1h", "{name}");
        assert_eq!(super::status::patch(&pending, status)["status"]["timeout"], "1h", "{name}");
    }
    let again = session(Phase::Failed, &json!({ "spec": { "run": 2 }, "status": { "timeout": "1h" } }));
    assert_eq!(super::status::next(&again, &Change::Pending, now()).timeout, None);
}

/// R38.
#[test]
fn a_stop_keeps_its_reason_and_waits_for_the_pod() {
    let stopping = |reason: &str| session(Phase::Stopping, &json!({ "status": { "stoppedReason": reason } }));
    let timeout = stopping("Timeout");
    check("a crash before the order", &timeout, &with(pod()), "stop(fix-1 p-1), wait");
    check("ordered", &timeout, &with(PodView { stopping: true, ..pod() }), "wait");
    check("deleted by somebody", &timeout, &with(PodView { deleting: true, ..pod() }), "wait");
    check("recorded", &timeout, &ended("Stopped", 143), "Stopped Timeout 1, wait");
    check("finished in the same moment", &timeout, &ended("Completed", 0), "Stopped Timeout 1, wait");
    check("gone", &timeout, &Observed::default(), "Stopped Timeout 1, wait");
    let late = stopping("CreationDeadlineExceeded");
    check("never began", &late, &Observed::default(), "Failed CreationDeadlineExceeded 1, wait");
}

/// R14.
#[test]
fn what_ended_is_begun_again_only_as_a_new_run() {
    for phase in [Phase::Stopped, Phase::Completed, Phase::Failed] {
        check("R14: ended", &session(phase, &json!({})), &Observed::default(), "wait");
        let again = session(phase, &json!({ "spec": { "run": 2 } }));
        check("asked again", &again, &Observed::default(), "Pending 2, after 0s");
        let stopped = session(phase, &json!({ "spec": { "run": 2, "desiredState": "Stopped" } }));
        check("asked again, but to be stopped", &stopped, &Observed::default(), "wait");
    }
    let again =
        session(Phase::Failed, &json!({ "spec": { "run": 2 }, "status": { "exitCode": 3, "stoppedReason": "Error" } }));
    let fresh = super::status::next(&again, &Change::Pending, now());
    assert_eq!((fresh.exit_code, &fresh.start_time, &fresh.stopped_reason, fresh.attempts), (None, &None, &None, 1));
    let patch = super::status::patch(&again, &fresh);
    assert_eq!((&patch["status"]["exitCode"], &patch["metadata"]["resourceVersion"]), (&Value::Null, &json!("7")));
}

#[test]
fn a_deleted_session_takes_its_own_pods_along() {
    let deleting = json!({ "metadata": { "deletionTimestamp": NOW } });
    let live = session(Phase::Running, &deleting);
    let others = |pods: Vec<PodView>| Observed { others: pods, ..Observed::default() };
    check("alive", &live, &others(vec![pod()]), "Stopping Deleted 1, delete(fix-1 p-1), wait");
    let stopping = session(Phase::Stopping, &deleting);
    check("told", &stopping, &others(vec![PodView { deleting: true, ..pod() }]), "wait");
    check("told to stay", &stopping, &others(vec![PodView { stopping: true, ..pod() }]), "delete(fix-1 p-1), wait");
    check("gone", &stopping, &Observed::default(), "release, wait");
    let done = session(Phase::Completed, &deleting);
    let finished = ended("Completed", 0).pod.unwrap();
    check("finished before", &done, &others(vec![finished]), "delete(fix-1 p-1), wait");
    let released = session(Phase::Completed, &json!({ "metadata": { "deletionTimestamp": NOW, "finalizers": ["x"] } }));
    check("held by others", &released, &Observed::default(), "wait");
}

#[test]
fn a_pod_is_made_of_session_agent_and_project() {
    let session = session(
        Phase::Pending,
        &json!({ "spec": {
            "agent": "coder", "command": null, "prompt": "now", "timeout": "1h", "stopOnFinish": true,
            "env": [{ "name": "A", "value": "session" }],
            "resources": { "cpu": "2" }, "workspace": { "keep": true, "files": "inputs" },
            "credentials": [{ "name": "git", "tokenEnv": "TOKEN" }],
        } }),
    );
    let agent = json!({ "metadata": {}, "spec": {
        "prompt": "be careful", "command": ["agent"], "args": ["--go"], "adaptor": "stream-json", "model": "m1",
        "env": [{ "name": "A", "value": "agent" }, { "name": "B", "value": "b" }],
        "resources": { "cpu": "1", "memory": "1Gi" }, "credentials": [{ "name": "git" }, { "name": "api" }],
    } });
    let project = json!({ "metadata": {}, "spec": {
        "prompt": "in this house", "sessionDefaults": { "workspaceSize": "2Gi", "resources": { "pids": 64, "memory": "9Gi" } },
    } });
    let (agent, project) = (serde_json::from_value(agent).unwrap(), serde_json::from_value(project).unwrap());
    let parts = super::pod::Parts {
        session: &session,
        project: Some(&project),
        agent: Some(&agent),
        run: 3,
        node: Some("box"),
    };
    assert_eq!(parts.prompt().unwrap(), "in this house\n\nbe careful\n\nnow");
    let pod = serde_json::to_value(parts.pod().unwrap()).unwrap();
    let meta = &pod["metadata"];
    assert_eq!(meta["name"], "fix-3");
    assert_eq!(meta["ownerReferences"][0]["uid"], "s-1");
    assert_eq!(meta["finalizers"], json!(["mainstay.dev/node", "mainstay.dev/session"]));
    assert_eq!(
        meta["annotations"],
        json!({ "mainstay.dev/session-uid": "s-1", "mainstay.dev/run": "3", "mainstay.dev/adaptor": "stream-json",
                "mainstay.dev/keep-workspace": "true", "mainstay.dev/stop-on-finish": "true" })
    );
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], 3_600);
    let container = &pod["spec"]["containers"][0];
    assert_eq!((&container["command"], &container["args"]), (&json!(["agent"]), &json!(["--go"])));
    assert_eq!(container["resources"]["limits"], json!({ "cpu": "2", "memory": "1Gi", "mainstay.dev/pids": "64" }));
    assert_eq!(
        container["env"],
        json!([
            { "name": "B", "value": "b" }, { "name": "A", "value": "session" }, { "name": "MAINSTAY_MODEL", "value": "m1" },
            { "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "credential/git", "key": "token" } } },
        ])
    );
    let mounts: Vec<&str> = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    assert_eq!(mounts, ["/workspace", "/mainstay/credentials/api", "/mainstay/credentials/git", "/mainstay/files"]);
    assert_eq!(pod["spec"]["volumes"][0]["emptyDir"]["sizeLimit"], "2Gi");
    let rules = mainstay_api::pod::kind().rules;
    assert_eq!((rules.check)(&pod, None), [], "the API accepts it");
}

/// R29.
#[tokio::test(start_paused = true)]
async fn limits_of_time_do_not_notice_that_somebody_sets_the_clock() {
    for hours in [2, -2] {
        let clock = Clock::virtual_from(now());
        let limits = json!({ "spec": { "timeout": "1h", "inactivityTimeout": "30m" } });
        let running = session(Phase::Running, &limits);
        clock.set_forward(jiff::SignedDuration::from_hours(hours));
        tokio::time::advance(Duration::from_mins(10)).await;
        let observed = Observed { timeline: clock.timeline(), ..with(pod()) };
        assert_eq!(words(&running, &observed, clock.now()), "after 1200.5s", "set by {hours} h");
        tokio::time::advance(Duration::from_mins(21)).await;
        let observed = Observed { timeline: clock.timeline(), ..with(pod()) };
        let stopped = "Stopping Inactivity 1, stop(fix-1 p-1), wait";
        assert_eq!(words(&running, &observed, clock.now()), stopped, "set by {hours} h");
    }
}
