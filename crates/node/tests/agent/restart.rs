//! An agent goes and another comes: sandboxes go on, and are found again.

use mainstay_node::agent::term::Machine;
use mainstay_node::launch::{Order, Verb};
use mainstay_node::shim::{client, record};
use serde_json::{Value, json};

use crate::bench::{Bench, eventually, pod};

/// R36.
#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_goes_on_and_is_adopted() {
    let mut bench = Bench::new();
    let (go, mark) = (bench.path("go"), bench.path("mark"));
    let script = format!(
        "echo start >> {m}; echo one; until [ -e {g} ]; do sleep 0.02; done; echo two; exit 0",
        m = mark.display(),
        g = go.display()
    );
    bench.api.create(pod("fix-1", &script));
    bench.ready("fix-1").await;
    eventually("the first message", || bench.api.texts().contains(&"one".to_owned()).then_some(())).await;
    bench.stop().await;
    bench.start();
    std::fs::write(&go, "").unwrap();
    let status = bench.finished("fix-1").await;
    assert_eq!(status["reason"], "Completed");
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "start\n", "it ran once");
    let texts = bench.api.texts();
    assert_eq!(texts.iter().filter(|text| *text == "one" || *text == "two").count(), 2, "R46: {texts:?}");
    assert_eq!(bench.api.tokens(), 1, "the token had most of its life left");
    bench.api.delete("fix-1", 0);
    bench.gone("fix-1").await;
}

/// R33.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_pods_survive_an_agent_that_comes_and_goes() {
    const PODS: usize = 20;
    let mut bench = Bench::new();
    let mark = bench.path("mark");
    for number in 0..PODS {
        let name = format!("fix{number}-1");
        let script =
            format!("echo {number} >> {}; for n in 0 1 2 3 4 5 6 7 8 9; do echo $n; sleep 0.1; done", mark.display());
        let mut pod = pod(&name, &script);
        pod["metadata"]["labels"]["mainstay.dev/session"] = json!(format!("fix{number}"));
        pod["metadata"]["annotations"]["mainstay.dev/session-uid"] = json!(format!("s-{number}"));
        bench.api.create(pod);
        // Between any two steps of any of them.
        if number % 3 == 2 {
            bench.stop().await;
            bench.start();
        }
    }
    let expected: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    for number in 0..PODS {
        let name = format!("fix{number}-1");
        assert_eq!(bench.finished(&name).await["reason"], "Completed", "{name}");
        assert_eq!(bench.api.said_in(&format!("fix{number}")), expected, "{name}: each once and in order");
        bench.api.delete(&name, 0);
        if number % 7 == 6 {
            bench.stop().await;
            bench.start();
        }
    }
    eventually("no left-overs", || bench.left_over().is_empty().then_some(())).await;
    let mut ran: Vec<usize> =
        std::fs::read_to_string(&mark).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..PODS).collect::<Vec<_>>(), "each ran once");
}

/// R15.
#[tokio::test(flavor = "multi_thread")]
async fn what_ended_meanwhile_is_reported() {
    let mut bench = Bench::new();
    let go = bench.path("go");
    let script = format!("until [ -e {} ]; do sleep 0.02; done; exit 7", go.display());
    // A Pod without a session ends without anybody to talk to.
    let mut by_hand = pod("plain", &script);
    by_hand["metadata"] = json!({ "name": "plain", "finalizers": ["mainstay.dev/node"] });
    let uid = bench.api.create(by_hand);
    bench.ready("plain").await;
    bench.stop().await;
    std::fs::write(&go, "").unwrap();
    let exit = bench.run_dir(&uid).join("exit.json");
    eventually("the record", || exit.exists().then_some(())).await;
    bench.start();
    let status = bench.finished("plain").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_sandboxes_know_a_newer_one_than_ends_and_the_next_is_newer() {
    let mut bench = Bench::new();
    let uid = bench.api.create(pod("fix-1", "exec sleep 60"));
    bench.ready("fix-1").await;
    bench.stop().await;
    // As if an older database had been restored.
    let newest = Order { fence: 100, verb: Verb::Fence };
    assert!(client::send(&bench.run_dir(&uid), &newest).unwrap().accepted);
    bench.start();
    eventually("the agent's end", || bench.is_ending().then_some(())).await;
    bench.stop().await;
    assert!(record::is_live(&bench.run_dir(&uid)).unwrap(), "its sandbox goes on");
    let seen = mainstay_node::agent::newest_term(&bench.path("node"));
    assert_eq!(seen, 100);
    bench.start_after(seen);
    bench.api.change("fix-1", |pod| pod["metadata"]["annotations"]["mainstay.dev/stop"] = json!("true"));
    assert_eq!(bench.finished("fix-1").await["reason"], "Stopped");
    bench.api.delete("fix-1", 0);
    bench.gone("fix-1").await;
    assert!(!bench.is_ending());
    assert_eq!(mainstay_node::agent::newest_term(&bench.path("absent")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_ends_when_another_has_taken_its_node() {
    let mut bench = Bench::new();
    let uid = bench.api.create(pod("fix-1", "exec sleep 60"));
    bench.ready("fix-1").await;
    let client = bench.api.client();
    let taken =
        mainstay_node::agent::term::take(&client, "local", 0, &Machine::default(), &mainstay_runtime::Clock::system())
            .await;
    assert_eq!(taken.unwrap().number, 2);
    eventually("the older agent's end", || bench.is_ending().then_some(())).await;
    bench.stop().await;
    assert!(record::is_live(&bench.run_dir(&uid)).unwrap(), "its sandbox goes on");
    bench.start();
    assert!(!bench.is_ending());
    bench.api.change("fix-1", |pod| pod["status"]["phase"] = json!("Failed"));
    eventually("the end of what was given up", || (!record::is_live(&bench.run_dir(&uid)).unwrap()).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_an_old_token_is_renewed_at_adoption_and_on_order() {
    let mut bench = Bench::idle();
    bench.api.age_tokens(600);
    bench.start();
    bench.api.create(pod("fix-1", "sleep 60"));
    bench.ready("fix-1").await;
    assert_eq!(bench.api.tokens(), 1);
    bench.stop().await;
    bench.api.age_tokens(0);
    bench.start();
    eventually("a new token", || (bench.api.tokens() == 2).then_some(())).await;
    // A failed renewal leaves the old token in place and is tried again.
    bench.api.fail("/token", 500);
    bench.api.change("fix-1", |pod| pod["metadata"]["annotations"]["mainstay.dev/token-renewal"] = json!("now"));
    eventually("another token", || (bench.api.tokens() == 3).then_some(())).await;
    bench.stop().await;
    bench.start();
    bench.api.change("fix-1", |pod| pod["metadata"]["labels"]["other"] = json!("change"));
    bench.api.delete("fix-1", 0);
    bench.gone("fix-1").await;
    assert_eq!(bench.api.tokens(), 3, "an order that was carried out is not carried out again");
    assert!(!bench.api.tokens_seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_pod_went_meanwhile_is_removed() {
    let mut bench = Bench::new();
    let uid = bench.api.create(pod("fix-1", "sleep 60"));
    bench.ready("fix-1").await;
    bench.stop().await;
    bench.api.erase("fix-1");
    // Another one of its name is not it.
    let mut other = pod("fix-1", "sleep 60");
    other["metadata"]["labels"] = json!({});
    let second = bench.api.create(other);
    bench.start();
    eventually("the first sandbox's end", || (!bench.run_dir(&uid).exists()).then_some(())).await;
    bench.ready("fix-1").await;
    assert!(bench.run_dir(&second).exists());
    bench.api.erase("fix-1");
    eventually("no left-overs", || bench.left_over().is_empty().then_some(())).await;
}

const SESSION: &str = "/apis/mainstay.dev/v1alpha1/namespaces/web/sessions/fix";

fn session(uid: &str) -> Value {
    json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Session",
        "metadata": { "name": "fix", "namespace": "web", "uid": uid },
    })
}

fn keeping(name: &str, script: &str) -> Value {
    let mut pod = pod(name, script);
    pod["metadata"]["annotations"]["mainstay.dev/keep-workspace"] = json!("true");
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_workspace_stays_as_long_as_its_session() {
    let mut bench = Bench::new();
    bench.api.place(SESSION, session("s-1"));
    bench.api.create(keeping("fix-1", "echo kept > file"));
    bench.finished("fix-1").await;
    bench.api.create(keeping("fix-2", "cat file"));
    assert_eq!(bench.finished("fix-2").await["reason"], "Completed");
    assert!(bench.api.texts().contains(&"kept".to_owned()));
    for name in ["fix-1", "fix-2"] {
        bench.api.delete(name, 0);
        eventually("the object's end", || bench.api.pod(name).is_none().then_some(())).await;
    }
    let workspace = bench.path("node/workspaces/s-1");
    assert_eq!(bench.left_over(), std::slice::from_ref(&workspace));
    bench.stop().await;
    bench.api.place(SESSION, session("s-2"));
    // One that cannot be judged does not keep the others.
    let other = bench.path("node/workspaces/s-0");
    std::fs::create_dir(&other).unwrap();
    let owner = json!({
        "pod": { "namespace": "other", "name": "x-1", "uid": "x" }, "uidBase": 0x2000_0000,
        "session": { "name": "x", "uid": "s-0", "run": 1, "stopOnFinish": false },
    });
    std::fs::write(other.join("claim.json"), owner.to_string()).unwrap();
    bench.api.fail("/namespaces/other/sessions/x", 403);
    bench.start();
    eventually("the workspace's end", || (!workspace.exists()).then_some(())).await;
    assert!(other.exists(), "nothing is removed before its session was seen to be gone");
}

/// R7.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_workspace_goes_with_the_last_pod_of_a_session_that_is_deleted() {
    let mut bench = Bench::new();
    bench.api.place(SESSION, session("s-1"));
    bench.api.create(keeping("fix-1", "echo kept > file"));
    bench.finished("fix-1").await;
    bench.api.create(keeping("fix-2", "exec sleep 60"));
    bench.ready("fix-2").await;
    bench.stop().await;
    let mut deleted = session("s-1");
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    bench.api.place(SESSION, deleted);
    bench.start();
    let workspace = bench.path("node/workspaces/s-1");
    bench.api.delete("fix-1", 0);
    eventually("the object's end", || bench.api.pod("fix-1").is_none().then_some(())).await;
    assert!(workspace.exists(), "another Pod is in it");
    bench.api.delete("fix-2", 0);
    eventually("the object's end", || bench.api.pod("fix-2").is_none().then_some(())).await;
    assert_eq!(bench.left_over(), [""; 0].map(std::path::PathBuf::from), "the session waits for its Pods only");
}
