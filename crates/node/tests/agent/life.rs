//! A Pod's life under one agent.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use futures::future::BoxFuture;
use mainstay_node::agent::logs::{LogError, LogOptions};
use mainstay_node::agent::{Look, Sandboxes, Shims};
use mainstay_node::launch::{Answer, Launch, Order};
use mainstay_node::sandbox::SandboxError;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::bench::{Bench, condition, eventually, pod};

async fn log(bench: &Bench, uid: &str, options: LogOptions) -> String {
    let stream = bench.agent().logs(uid, options).await.unwrap();
    let chunks: Vec<_> = stream.map(|chunk| chunk.unwrap()).collect().await;
    String::from_utf8(chunks.concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_talks_ends_and_is_cleaned_up() {
    let bench = Bench::new();
    let go = bench.path("go");
    let script = format!("echo hello; until [ -e {} ]; do sleep 0.02; done; echo bye; exit 3", go.display());
    let uid = bench.api.create(pod("fix-1", &script));
    let status = bench.ready("fix-1").await;
    assert_eq!((status["phase"].as_str(), condition(&status, "Isolated")), (Some("Running"), "False"));
    assert!(status["containerStatuses"][0]["state"]["running"]["startedAt"].is_string());
    assert_eq!(bench.api.status_writes("fix-1").len(), 1, "Running, Isolated and Ready are one write");
    let following = log(&bench, &uid, LogOptions { follow: true, ..LogOptions::default() });
    let (log_text, ()) = tokio::join!(following, async { std::fs::write(&go, "").unwrap() });
    assert_eq!(log_text, "hello\nbye\n");
    let status = bench.finished("fix-1").await;
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Error")));
    let terminated = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&json!(3), &json!("Error")));
    assert!(status["message"].as_str().unwrap().contains("code 3"), "R17: {status}");
    assert_eq!(bench.api.texts()[..2], ["hello", "bye"]);
    assert_eq!(bench.api.status_writes("fix-1").len(), 2);
    let tail = log(&bench, &uid, LogOptions { tail_lines: Some(1), ..LogOptions::default() }).await;
    assert_eq!(tail, "bye\n", "the log is there until the Pod goes");
    let own = bench.path("node/pods").join(&uid);
    eventually("no socket and no token", || (!own.exists()).then_some(())).await;
    bench.api.delete("fix-1", 5);
    bench.gone("fix-1").await;
    let gone = bench.agent().logs(&uid, LogOptions::default()).await;
    assert!(matches!(gone, Err(LogError::NoSuchLog)));
}

#[tokio::test(flavor = "multi_thread")]
async fn r47_any_number_of_viewers_follow_a_log_to_its_end() {
    let bench = Bench::new();
    let go = bench.path("go");
    let script = format!("echo one; until [ -e {} ]; do sleep 0.02; done; echo two", go.display());
    let uid = bench.api.create(pod("fix-1", &script));
    bench.ready("fix-1").await;
    let follow = || log(&bench, &uid, LogOptions { follow: true, ..LogOptions::default() });
    let viewers = futures::future::join_all((0..40).map(|_| follow()));
    let (texts, ()) = tokio::join!(viewers, async { std::fs::write(&go, "").unwrap() });
    assert!(texts.iter().all(|text| text == "one\ntwo\n"), "{texts:?}");
    assert_eq!(follow().await, "one\ntwo\n", "a log that is whole is not waited for");
}

/// Sandboxes whose end is seen by who looks, and never by who waits.
#[derive(Debug)]
struct EndsInSilence;

impl Sandboxes for EndsInSilence {
    fn spawn(&self, exe: &Path, launch: &Launch) -> Result<(), SandboxError> {
        Shims.spawn(exe, launch)
    }

    fn send(&self, run_dir: &Path, order: &Order) -> io::Result<Answer> {
        Shims.send(run_dir, order)
    }

    fn look(&self, run_dir: &Path) -> io::Result<Look> {
        // The record comes shortly before the end of who wrote it.
        if run_dir.join("exit.json").exists() {
            flock(File::open(run_dir.join("lock"))?, FlockOperation::LockShared)?;
        }
        Shims.look(run_dir)
    }

    fn left_over(&self, instance: &str) -> Vec<(String, PathBuf)> {
        Shims.left_over(instance)
    }

    fn sweep(&self, instance: &str, cgroups: &[PathBuf]) -> io::Result<()> {
        Shims.sweep(instance, cgroups)
    }

    fn gone(&self, _: PathBuf) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_log_hears_of_the_end_however_it_was_seen() {
    let bench = Bench::with(EndsInSilence);
    let go = bench.path("go");
    let uid = bench.api.create(pod("fix-1", &format!("echo one; until [ -e {} ]; do sleep 0.02; done", go.display())));
    bench.ready("fix-1").await;
    let following = log(&bench, &uid, LogOptions { follow: true, ..LogOptions::default() });
    let followed = async { tokio::time::timeout(std::time::Duration::from_secs(30), following).await };
    let (text, ()) = tokio::join!(followed, async { std::fs::write(&go, "").unwrap() });
    assert_eq!(text.expect("the log ends with its sandbox"), "one\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_is_stopped_with_its_grace_period() {
    let bench = Bench::new();
    bench.api.create(pod("fix-1", "trap 'echo stopping; exit 0' TERM; echo up; while :; do sleep 0.02; done"));
    bench.ready("fix-1").await;
    eventually("the trap", || bench.api.texts().contains(&"up".to_owned()).then_some(())).await;
    bench.api.delete("fix-1", 5);
    bench.gone("fix-1").await;
    let last = bench.api.status_writes("fix-1").pop().unwrap();
    assert_eq!((&last["phase"], &last["reason"]), (&json!("Failed"), &json!("Stopped")));
    assert!(bench.api.texts().contains(&"stopping".to_owned()), "its last words arrive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_told_to_stop_stays_with_its_log() {
    let mut bench = Bench::new();
    let uid =
        bench.api.create(pod("fix-1", "trap 'echo stopping; exit 0' TERM; echo up; while :; do sleep 0.02; done"));
    bench.ready("fix-1").await;
    eventually("the trap", || bench.api.texts().contains(&"up".to_owned()).then_some(())).await;
    bench.api.change("fix-1", |pod| pod["metadata"]["annotations"]["mainstay.dev/stop"] = json!("true"));
    assert_eq!(bench.finished("fix-1").await["reason"], "Stopped");
    bench.stop().await;
    bench.start();
    eventually("the Pod's worker", || bench.api.pod("fix-1")).await;
    let text = log(&bench, &uid, LogOptions::default()).await;
    // The shell may have a word of its own to say about the sleep that was ended with it.
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty() && *line != "Terminated").collect();
    assert_eq!(lines, ["up", "stopping"], "{text}");
    bench.api.delete("fix-1", 0);
    bench.gone("fix-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_variables_reach_the_agent_process() {
    let bench = Bench::new();
    bench.api.place("/api/v1/namespaces/web/configmaps/notes", json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "notes" }, "data": { "a.txt": "from a config map" },
    }));
    bench.api.place(
        "/apis/mainstay.dev/v1alpha1/namespaces/web/credentials/git/reveal",
        json!({ "token": "t0k", "url": "https://x" }),
    );
    bench.api.place(
        "/api/v1/namespaces/web/secrets/other",
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "other" }, "data": { "key": "c2VjcmV0" },
        }),
    );
    let script = "cat $MAINSTAY_FILES/a.txt; echo; cat $MAINSTAY_CREDENTIALS/git/token; echo; \
                  ls $MAINSTAY_CREDENTIALS/git; stat -c %a $MAINSTAY_CREDENTIALS/git/token; echo $A $B $C";
    let mut wanted = pod("fix-1", script);
    wanted["spec"]["containers"][0]["env"] = json!([
        { "name": "A", "value": "plain" },
        { "name": "B", "valueFrom": { "secretKeyRef": { "name": "credential/git", "key": "token" } } },
        { "name": "C", "valueFrom": { "secretKeyRef": { "name": "other", "key": "key" } } },
    ]);
    let spec = &mut wanted["spec"];
    for (name, source, path) in [
        ("files", json!({ "configMap": { "name": "notes" } }), "/mainstay/files"),
        ("git", json!({ "secret": { "secretName": "credential/git" } }), "/mainstay/credentials/git"),
    ] {
        let mut volume = source;
        volume["name"] = json!(name);
        spec["volumes"].as_array_mut().unwrap().push(volume);
        let mount = json!({ "name": name, "mountPath": path });
        spec["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
    }
    let uid = bench.api.create(wanted);
    bench.finished("fix-1").await;
    let text = log(&bench, &uid, LogOptions::default()).await;
    assert_eq!(text, "from a config map\nt0k\ntoken\nurl\n400\nplain t0k secret\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_made_by_hand_is_claimed_before_it_runs() {
    let bench = Bench::new();
    let mut by_hand = pod("plain", "exit 0");
    by_hand["metadata"] = json!({ "name": "plain" });
    bench.api.create(by_hand);
    let status = bench.finished("plain").await;
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Succeeded"), &json!("Completed")));
    assert_eq!(bench.api.pod("plain").unwrap()["metadata"]["finalizers"], json!(["mainstay.dev/node"]));
    assert_eq!(bench.api.tokens(), 0, "it has no session to speak for");
    bench.api.delete("plain", 0);
    bench.gone("plain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_pods_live_at_once_and_leave_nothing() {
    Bench::new().thirty_live_at_once().await;
}
