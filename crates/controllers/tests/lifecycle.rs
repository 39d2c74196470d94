//! The controllers on a real API server, each with no more rights than its own.

#[cfg(test)]
mod server;

use std::time::Duration;

use mainstay_runtime::Clock;
use serde_json::{Value, json};
use server::Server;
use tokio::time::Instant;

const PROJECTS: &str = "/apis/mainstay.dev/v1alpha1/projects";
const SESSIONS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/demo/sessions";
const PODS: &str = "/api/v1/namespaces/demo/pods";

async fn project(server: &Server, spec: Value) {
    server.create(PROJECTS, &json!({ "metadata": { "name": "demo" }, "spec": spec })).await;
    server.until_phase(&format!("{PROJECTS}/demo"), "Active").await;
}

async fn session(server: &Server, name: &str, spec: Value) -> String {
    server.create(SESSIONS, &json!({ "metadata": { "name": name }, "spec": spec })).await;
    format!("{SESSIONS}/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_runs_to_its_end_and_again() {
    let server = Server::start().await;
    project(&server, json!({ "prompt": "in this house" })).await;
    let path = session(&server, "fix", json!({ "command": ["true"], "prompt": "fix it" })).await;
    let done = server.until_phase(&path, "Completed").await;
    assert_eq!((&done["status"]["run"], &done["status"]["exitCode"]), (&json!(1), &json!(0)), "{done}");
    assert_eq!(done["status"]["stoppedReason"], "Finished");
    assert_eq!(done["status"]["lastMessage"], 1, "the joined prompts");
    let first = server.get(&format!("{PODS}/fix-1")).await.unwrap();
    server.merge(&path, &json!({ "spec": { "run": 2 } })).await;
    let again = server
        .until(&path, |found| {
            found.is_some_and(|object| object["status"]["run"] == 2 && object["status"]["phase"] == "Completed")
        })
        .await;
    assert_eq!((&again["status"]["attempts"], &again["status"]["lastMessage"]), (&json!(2), &json!(1)), "{again}");
    assert!(server.get(&format!("{PODS}/fix-1")).await.is_none(), "the earlier run's Pod went first");
    assert_ne!(server.get(&format!("{PODS}/fix-2")).await.unwrap()["metadata"]["uid"], first["metadata"]["uid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_stop_for_reasons_that_are_kept_apart() {
    let server = Server::start().await;
    project(&server, json!({})).await;
    let asked = session(&server, "asked", json!({ "command": ["sleep"] })).await;
    let timed = session(&server, "timed", json!({ "command": ["sleep"], "timeout": 1 })).await;
    let idle = session(&server, "idle", json!({ "command": ["sleep"], "inactivityTimeout": 1 })).await;
    let missing = session(&server, "missing", json!({ "agent": "nobody" })).await;
    server.until_phase(&asked, "Running").await;
    server.merge(&asked, &json!({ "spec": { "desiredState": "Stopped" } })).await;
    for (path, phase, reason) in [
        (&asked, "Stopped", "User"),
        (&timed, "Stopped", "Timeout"),
        (&idle, "Stopped", "Inactivity"),
        (&missing, "Failed", "AgentNotFound"),
    ] {
        let ended = server.until_phase(path, phase).await;
        assert_eq!(ended["status"]["stoppedReason"], reason, "{ended}");
    }
}

/// R4, R39: a deleted session touches nothing else; a deleted project leaves nothing of itself and all of others.
#[tokio::test(flavor = "multi_thread")]
async fn deletion_takes_what_belongs_to_it_and_nothing_else() {
    let server = Server::start().await;
    project(&server, json!({ "members": [{ "name": "ann", "role": "editor" }], "quota": { "running": 9 } })).await;
    let one = session(&server, "one", json!({ "command": ["sleep"] })).await;
    let two = session(&server, "two", json!({ "command": ["sleep"] })).await;
    server.until_phase(&one, "Running").await;
    server.until_phase(&two, "Running").await;
    server.create("/api/v1/namespaces/demo/configmaps", &json!({ "metadata": { "name": "mine" } })).await;
    server.create("/api/v1/namespaces/default/configmaps", &json!({ "metadata": { "name": "other" } })).await;
    server.delete(&one).await;
    server.until(&one, |found| found.is_none()).await;
    assert!(server.get(&format!("{PODS}/one-1")).await.is_none(), "its Pod went first");
    assert_eq!(server.get(&two).await.unwrap()["status"]["phase"], "Running");
    server.delete(&format!("{PROJECTS}/demo")).await;
    server.until(&format!("{PROJECTS}/demo"), |found| found.is_none()).await;
    assert!(server.get("/api/v1/namespaces/demo").await.is_none());
    for left in [&two, "/api/v1/namespaces/demo/configmaps/mine", &format!("{PODS}/two-1")] {
        assert!(server.get(left).await.is_none(), "{left}");
    }
    assert!(server.get("/api/v1/namespaces/default/configmaps/other").await.is_some());
    assert!(server.tasks.shutdown(Duration::from_secs(10)).await.is_ok());
}

/// R14, R45: what a Pod that is deleted by hand recorded is judged before it goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_deleted_by_hand_stays_until_it_is_judged() {
    let server = Server::start().await;
    project(&server, json!({})).await;
    for (name, command, phase, reason) in
        [("runs", "sleep", "Running", "PodDeleted"), ("ends", "true", "Completed", "Finished")]
    {
        let path = session(&server, name, json!({ "command": [command] })).await;
        server.until_phase(&path, phase).await;
        let pod = format!("{PODS}/{name}-1");
        server.delete(&pod).await;
        server.until(&pod, |found| found.is_none()).await;
        let ended = server.get(&path).await.unwrap();
        assert_eq!(ended["status"]["stoppedReason"], reason, "{ended}");
    }
}

/// A Pod is not held for a session that is gone, however that went.
/// R45.
#[tokio::test(flavor = "multi_thread")]
async fn no_pod_stays_for_a_session_that_is_gone() {
    let server = Server::start().await;
    project(&server, json!({})).await;
    let path = session(&server, "torn", json!({ "command": ["sleep"] })).await;
    server.until_phase(&path, "Running").await;
    server.merge(&path, &json!({ "metadata": { "finalizers": null } })).await;
    server.delete(&path).await;
    server.until(&path, |found| found.is_none()).await;
    server.until(&format!("{PODS}/torn-1"), |found| found.is_none()).await;
}

/// Prompts of the greatest size that is let in, in letters of the greatest size, are joined into one message (R20).
#[tokio::test(flavor = "multi_thread")]
async fn the_greatest_prompts_are_sent_together() {
    let server = Server::start().await;
    let most = "\u{1f980}".repeat((1 << 18) / 4);
    project(&server, json!({ "prompt": most })).await;
    let agents = "/apis/mainstay.dev/v1alpha1/namespaces/demo/agents";
    let agent = json!({ "prompt": most, "command": ["true"] });
    server.create(agents, &json!({ "metadata": { "name": "crab" }, "spec": agent })).await;
    let path = session(&server, "fits", json!({ "agent": "crab", "prompt": most })).await;
    let done = server.until_phase(&path, "Completed").await;
    assert_eq!(done["status"]["lastMessage"], 1, "{}", done["status"]);
    let longer = json!({ "metadata": { "name": "more" }, "spec": { "agent": "crab", "prompt": format!("{most}x") } });
    let (code, why) = server.refused("POST", SESSIONS, &longer).await;
    assert!(code == 422 && why.contains("spec.prompt: Too long: may not be more than 262144 bytes"), "{code} {why}");
}

/// R13, R50: a project's limits count for its sessions that run; their sandboxes hold no longer life than they had.
#[tokio::test(flavor = "multi_thread")]
async fn a_projects_limits_act_on_sessions_that_run() {
    let server = Server::start().await;
    let defaults = |changes: &Value| json!({ "spec": { "sessionDefaults": changes } });
    let demo = format!("{PROJECTS}/demo");
    project(&server, json!({ "sessionDefaults": { "timeout": "1h" } })).await;
    let idle = session(&server, "idle", json!({ "command": ["sleep"], "timeout": 0 })).await;
    let timed = session(&server, "timed", json!({ "command": ["sleep"], "inactivityTimeout": 0 })).await;
    let held = session(&server, "held", json!({ "command": ["sleep"], "inactivityTimeout": 0 })).await;
    for path in [&idle, &timed, &held] {
        server.until_phase(path, "Running").await;
    }
    server.merge(&demo, &defaults(&json!({ "timeout": "3h", "inactivityTimeout": 1 }))).await;
    let changed = Instant::now();
    let stopped = server.until_phase(&idle, "Stopped").await;
    assert_eq!(stopped["status"]["stoppedReason"], "Inactivity", "{stopped}");
    // What supervisors may still have to say at a start is waited for.
    assert!(changed.elapsed() < Duration::from_millis(3_500), "{:?}", changed.elapsed());
    let running = server.get(&held).await.unwrap();
    assert_eq!(running["status"]["timeout"], "1h", "as it was started: {running}");
    let (code, why) = server.refused("PATCH", &held, &json!({ "spec": { "timeout": "2h" } })).await;
    assert!(code == 422 && why.contains("spec.timeout: Forbidden: the sandbox of the present run holds 1h"), "{why}");
    server.merge(&held, &json!({ "spec": { "timeout": "30m" } })).await;
    server.merge(&held, &json!({ "spec": { "timeout": "1h" } })).await;
    server.merge(&demo, &defaults(&json!({ "timeout": 1 }))).await;
    let changed = Instant::now();
    let stopped = server.until_phase(&timed, "Stopped").await;
    assert_eq!(stopped["status"]["stoppedReason"], "Timeout", "{stopped}");
    assert!(changed.elapsed() < Duration::from_millis(2_500), "{:?}", changed.elapsed());
    assert_eq!(server.get(&held).await.unwrap()["status"]["phase"], "Running", "it has a limit of its own");
}

/// R39.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_namespace_is_left_alone() {
    let server = Server::start().await;
    server.create("/api/v1/namespaces", &json!({ "metadata": { "name": "demo" } })).await;
    let path = format!("{PROJECTS}/demo");
    let request = json!({ "metadata": { "name": "demo" }, "spec": {} });
    let made = http::Request::post(PROJECTS).header("content-type", "application/json");
    let made = server.admin.request::<Value>(made.body(request.to_string().into_bytes()).unwrap()).await;
    if made.is_ok() {
        let taken = |found: Option<&Value>| {
            found.is_some_and(|object| object["status"]["conditions"][0]["reason"] == "NamespaceTaken")
        };
        server.until(&path, taken).await;
        server.delete(&path).await;
        server.until(&path, |found| found.is_none()).await;
    }
    assert!(server.get("/api/v1/namespaces/demo").await.is_some());
    server.until("/api/v1/namespaces/demo/serviceaccounts/default", |found| found.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_are_soon_running() {
    let server = Server::start().await;
    project(&server, json!({})).await;
    let began = Instant::now();
    let mut paths = Vec::new();
    for number in 0..30 {
        paths.push(session(&server, &format!("s{number}"), json!({ "command": ["sleep"] })).await);
    }
    for path in &paths {
        server.until_phase(path, "Running").await;
    }
    println!("30 sessions Running after {:?}, with Pods that cost nothing", began.elapsed());
}

/// A session that the quota keeps back stays Pending, says so, and begins as soon as another of its project ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_quota_keeps_a_session_pending() {
    let server = Server::start().await;
    project(&server, json!({ "quota": { "running": 1 } })).await;
    server.until("/api/v1/namespaces/demo/resourcequotas/project", |found| found.is_some()).await;
    let first = session(&server, "first", json!({ "command": ["sleep"] })).await;
    server.until_phase(&first, "Running").await;
    let second = session(&server, "second", json!({ "command": ["sleep"] })).await;
    let blocked = |found: Option<&Value>| {
        let conditions = found.and_then(|object| object["status"]["conditions"].as_array());
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Blocked" && one["reason"] == "QuotaExceeded"))
    };
    let waiting = server.until(&second, blocked).await;
    assert_eq!(waiting["status"]["phase"], "Pending", "{waiting}");
    let began = Instant::now();
    server.delete(&first).await;
    server.until_phase(&second, "Running").await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_event_goes_and_a_new_one_stays() {
    let now = Clock::system().now() + Duration::from_hours(2);
    let server = Server::start_at(Clock::virtual_from(now)).await;
    let events = "/api/v1/namespaces/default/events";
    for (name, last) in [("new", json!(now)), ("old", Value::Null)] {
        let event = json!({ "metadata": { "name": name }, "involvedObject": {}, "lastTimestamp": last });
        server.create(events, &event).await;
    }
    server.until(&format!("{events}/old"), |found| found.is_none()).await;
    assert!(server.get(&format!("{events}/new")).await.is_some());
}
