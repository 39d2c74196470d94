//! What goes wrong, and what the Pod says of it.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::bench::{Bench, eventually, pod};
use mainstay_node::shim::record;

fn ending(status: &Value) -> (&str, &str, &str) {
    let text = |name: &str| status[name].as_str().unwrap_or_default();
    (text("phase"), text("reason"), text("message"))
}

/// R34.
#[tokio::test(flavor = "multi_thread")]
async fn r18_what_is_not_there_fails_the_pod_by_name() {
    let bench = Bench::new();
    let mut wanted = pod("fix-1", "true");
    wanted["spec"]["volumes"].as_array_mut().unwrap().push(json!({ "name": "f", "configMap": { "name": "absent" } }));
    let mounts = wanted["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap();
    mounts.push(json!({ "name": "f", "mountPath": "/mainstay/files" }));
    bench.api.create(wanted);
    let status = bench.finished("fix-1").await;
    let (phase, reason, message) = ending(&status);
    assert_eq!((phase, reason), ("Failed", "CreationFailed"));
    assert!(message.starts_with("read config map absent: ") && message.contains("not found"), "{message}");
    bench.api.delete("fix-1", 0);
    bench.gone("fix-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r50_a_limit_that_cannot_be_enforced_is_refused_by_name() {
    let bench = Bench::new();
    let mut wanted = pod("fix-1", "true");
    wanted["spec"]["containers"][0]["resources"] = json!({ "limits": { "memory": "64Mi" } });
    bench.api.create(wanted);
    let status = bench.finished("fix-1").await;
    let (phase, reason, message) = ending(&status);
    assert_eq!((phase, reason), ("Failed", "CreationFailed"));
    assert!(message.starts_with("this host cannot enforce what the Pod asks for: the memory limit"), "{message}");
    assert!(bench.left_over().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_fails_the_pod() {
    let bench = Bench::new();
    let mut wanted = pod("fix-1", "");
    wanted["spec"]["containers"][0]["command"] = json!(["/no/such/program"]);
    bench.api.create(wanted);
    let status = bench.finished("fix-1").await;
    let (phase, reason, message) = ending(&status);
    assert_eq!((phase, reason), ("Failed", "CreationFailed"));
    assert!(message.contains("/no/such/program"), "{message}");
}

/// R2, R18.
#[tokio::test(flavor = "multi_thread")]
async fn r19_a_token_that_could_not_be_read_is_asked_for_again() {
    let bench = Bench::new();
    bench.api.fail("/token", 503);
    bench.api.create(pod("fix-1", "echo ran"));
    let status = bench.finished("fix-1").await;
    assert_eq!(ending(&status).0, "Succeeded");
    assert_eq!(bench.api.tokens(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_a_token_of_an_account_that_is_not_there_yet_is_asked_for_again() {
    let bench = Bench::new();
    bench.api.fail("/token", 404);
    bench.api.create(pod("fix-1", "echo ran"));
    let status = bench.finished("fix-1").await;
    assert_eq!(ending(&status).0, "Succeeded", "{status}");
    assert_eq!(bench.api.tokens(), 1);
}

/// R34.
#[tokio::test(flavor = "multi_thread")]
async fn r20_a_refusal_for_good_fails_the_pod() {
    let bench = Bench::new();
    bench.api.fail("/token", 403);
    bench.api.create(pod("fix-1", "echo ran"));
    let status = bench.finished("fix-1").await;
    let (phase, reason, message) = ending(&status);
    assert_eq!((phase, reason), ("Failed", "CreationFailed"));
    assert!(message.starts_with("request a token for session fix"), "{message}");
    assert!(bench.api.texts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r48_a_pod_is_ready_only_after_an_accepted_heartbeat() {
    let bench = Bench::new();
    for _ in 0..4 {
        bench.api.fail("/heartbeat", 503);
    }
    bench.api.create(pod("fix-1", "sleep 60"));
    bench.ready("fix-1").await;
    assert!(bench.api.heartbeats() >= 1);
    for status in bench.api.status_writes("fix-1") {
        assert_eq!(status["phase"], "Running");
    }
    bench.api.delete("fix-1", 0);
    bench.gone("fix-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_is_a_lost_result_and_is_never_run_again() {
    let bench = Bench::new();
    let mark = bench.path("mark");
    let uid = bench.api.create(pod("fix-1", &format!("echo ran >> {}; sleep 60", mark.display())));
    bench.ready("fix-1").await;
    let run_dir = bench.run_dir(&uid);
    eventually("the agent process", || mark.exists().then_some(())).await;
    let shim = record::read_state(&run_dir).unwrap().unwrap().shim_pid;
    kill_process(Pid::from_raw(shim).unwrap(), Signal::KILL).unwrap();
    let status = bench.finished("fix-1").await;
    let (phase, reason, message) = ending(&status);
    assert_eq!((phase, reason), ("Failed", "Lost"));
    assert!(message.contains("result is lost"), "{message}");
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "ran\n");
    bench.api.delete("fix-1", 0);
    bench.gone("fix-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_before_it_started_says_so() {
    let mut bench = Bench::idle();
    bench.api.create(pod("fix-1", "true"));
    bench.api.delete("fix-1", 5);
    bench.start();
    bench.gone("fix-1").await;
    let last = bench.api.status_writes("fix-1").pop().unwrap();
    assert_eq!(ending(&last), ("Failed", "Stopped", "deleted before it was started"));
}

#[tokio::test(flavor = "multi_thread")]
async fn r44_a_write_that_came_second_is_planned_anew() {
    let bench = Bench::new();
    bench.api.fail("/status", 409);
    bench.api.create(pod("fix-1", "exit 0"));
    let status = bench.finished("fix-1").await;
    assert_eq!(ending(&status).0, "Succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_when_the_power_went_is_a_lost_result_and_is_never_run_again() {
    let mut bench = Bench::idle();
    let mark = bench.path("mark");
    let uid = bench.api.create(pod("fix-1", &format!("echo ran >> {}", mark.display())));
    // A lock that nobody holds, and files whose content never reached the disk.
    let run_dir = bench.run_dir(&uid);
    std::fs::create_dir_all(&run_dir).unwrap();
    for name in ["lock", "state.json", "exit.json"] {
        std::fs::write(run_dir.join(name), "").unwrap();
    }
    bench.start();
    let status = bench.finished("fix-1").await;
    assert_eq!((&status["reason"], mark.exists()), (&json!("Lost"), false), "{status}");
    bench.api.delete("fix-1", 0);
    bench.gone("fix-1").await;
}
