//! Sandboxes as they are by default: a uid range of their own between them and what the agent gives them.

use std::os::unix::fs::MetadataExt;

use mainstay_node::shim::record;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::bench::{Bench, condition, eventually, pod};

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_pod_talks_through_its_relay_and_leaves_nothing() {
    let mut bench = Bench::isolated();
    let mut wanted = pod("fix-1", "id -u; cat /mainstay/token/token | wc -c; touch /workspace/x; exec sleep 60");
    wanted["spec"]["containers"][0]["resources"] =
        json!({ "limits": { "memory": "128Mi", "mainstay.dev/pids": "20" } });
    let uid = bench.api.create(wanted);
    let status = bench.ready("fix-1").await;
    assert_eq!(condition(&status, "Isolated"), "True", "{status}");
    eventually("the agent's uid", || bench.api.texts().contains(&"1000".to_owned()).then_some(())).await;
    let token = bench.path("node/pods").join(&uid).join("token/token");
    let meta = std::fs::metadata(&token).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o777), (0x1000_0000 + 1000, 0o400));
    // R10, through the bind mount: the supervisor reads the new one.
    bench.api.change("fix-1", |pod| pod["metadata"]["annotations"]["mainstay.dev/token-renewal"] = json!("now"));
    eventually("a new token", || (bench.api.tokens() == 2).then_some(())).await;
    bench.stop().await;
    bench.start();
    eventually("the new token through the new relay", || (bench.api.tokens_seen().len() >= 2).then_some(())).await;
    bench.api.delete("fix-1", 1);
    bench.gone("fix-1").await;
    let instance = std::fs::read_to_string(bench.path("node/instance")).unwrap();
    assert!(mainstay_node::cgroup::of_instance(&instance).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_sandbox_whose_shim_was_killed() {
    let bench = Bench::isolated();
    let mut wanted = pod("fix-1", "sleep 60 & exec sleep 60");
    wanted["spec"]["containers"][0]["resources"] = json!({ "limits": { "memory": "128Mi" } });
    let uid = bench.api.create(wanted);
    bench.ready("fix-1").await;
    let state = record::read_state(&bench.run_dir(&uid)).unwrap().unwrap();
    assert!(state.cgroups.iter().all(|cgroup| cgroup.exists()) && !state.cgroups.is_empty());
    kill_process(Pid::from_raw(state.shim_pid).unwrap(), Signal::KILL).unwrap();
    let status = bench.finished("fix-1").await;
    assert_eq!((status["reason"].as_str(), condition(&status, "Isolated")), (Some("Lost"), "True"));
    eventually("no cgroups", || state.cgroups.iter().all(|cgroup| !cgroup.exists()).then_some(())).await;
    let workspace = bench.path("node/workspaces").join(&uid);
    eventually("no workspace", || (!workspace.exists()).then_some(())).await;
    bench.api.delete("fix-1", 0);
    bench.gone("fix-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_shim_that_was_killed_before_it_noted_its_cgroups() {
    let mut bench = Bench::isolated();
    let uid = bench.api.create(pod("fix-1", "exec sleep 60"));
    bench.ready("fix-1").await;
    let run_dir = bench.run_dir(&uid);
    let state = record::read_state(&run_dir).unwrap().unwrap();
    let above: Vec<_> = state.cgroups.iter().map(|cgroup| cgroup.parent().unwrap().to_owned()).collect();
    bench.stop().await;
    std::fs::remove_file(run_dir.join(record::STATE)).unwrap();
    kill_process(Pid::from_raw(state.shim_pid).unwrap(), Signal::KILL).unwrap();
    bench.start();
    assert_eq!(bench.finished("fix-1").await["reason"], "Lost");
    eventually("no cgroups", || above.iter().all(|dir| !dir.exists()).then_some(())).await;
    bench.api.delete("fix-1", 0);
    bench.gone("fix-1").await;
    // Of one that was killed earlier still.
    bench.stop().await;
    for dir in &above {
        std::fs::create_dir(dir).unwrap();
    }
    bench.start();
    eventually("no cgroups", || above.iter().all(|dir| !dir.exists()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_never_share_a_uid_range() {
    let bench = Bench::isolated();
    let uids = ["fix-1", "fix-2"].map(|name| bench.api.create(pod(name, "sleep 60")));
    let mut owners = Vec::new();
    for (name, uid) in ["fix-1", "fix-2"].iter().zip(&uids) {
        bench.ready(name).await;
        owners.push(std::fs::metadata(bench.path("node/pods").join(uid).join("token/token")).unwrap().uid());
    }
    assert!(owners[0].abs_diff(owners[1]) >= 0x1_0000, "{owners:?}");
    for name in ["fix-1", "fix-2"] {
        bench.api.delete(name, 0);
    }
    bench.gone("fix-1").await;
    bench.gone("fix-2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_workspace_is_there_again_in_the_next_run() {
    let bench = Bench::isolated();
    let keeping = |name: &str, script: &str| {
        let mut pod = pod(name, script);
        pod["metadata"]["annotations"]["mainstay.dev/keep-workspace"] = json!("true");
        pod
    };
    bench.api.create(keeping("fix-1", "echo kept > file"));
    assert_eq!(bench.finished("fix-1").await["reason"], "Completed");
    bench.api.create(keeping("fix-2", "cat file; stat -c %U file"));
    assert_eq!(bench.finished("fix-2").await["reason"], "Completed");
    let texts = bench.api.texts();
    assert!(texts.contains(&"kept".to_owned()) && texts.contains(&"agent".to_owned()), "{texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_isolated_pods_live_at_once_and_leave_nothing() {
    let bench = Bench::isolated();
    bench.thirty_live_at_once().await;
    let instance = std::fs::read_to_string(bench.path("node/instance")).unwrap();
    eventually("no cgroups", || mainstay_node::cgroup::of_instance(&instance).is_empty().then_some(())).await;
}
