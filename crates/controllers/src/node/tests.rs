use serde_json::Value;

use super::*;

fn node(ready: Option<&str>, deleting: bool) -> Node {
    let conditions: Vec<Value> = ready.into_iter().map(|status| json!({ "type": "Ready", "status": status })).collect();
    let deleted = deleting.then_some("2026-01-01T00:00:00Z");
    let meta = json!({ "name": "box", "finalizers": ["mainstay.dev/pods"], "deletionTimestamp": deleted });
    serde_json::from_value(json!({ "metadata": meta, "status": { "conditions": conditions } })).unwrap()
}

fn pod(name: &str, phase: &str, held: bool) -> Pod {
    let finalizers = if held { vec!["mainstay.dev/node"] } else { Vec::new() };
    let meta = json!({ "name": name, "finalizers": finalizers });
    serde_json::from_value(json!({ "metadata": meta, "status": { "phase": phase } })).unwrap()
}

fn words(node: &Node, silent: u64, known: u64, pods: Vec<Pod>) -> String {
    let silence = Silence { of_agent: Duration::from_secs(silent), known: Duration::from_secs(known) };
    let plan = NodeReconciler::plan(node, &Observed { silence, pods }, Timestamp::UNIX_EPOCH);
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
    let mut words: Vec<String> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::Say(ready, _) => format!("ready: {ready}"),
            Action::Lose(pod, _) => format!("lose {}", name(pod)),
            Action::Release(pod) => format!("release {}", name(pod)),
            Action::Forget => "forget".to_owned(),
        })
        .collect();
    words.push(match plan.next {
        Next::AwaitChange => "wait".to_owned(),
        Next::After(span) => format!("after {}s", span.as_secs()),
    });
    words.join(", ")
}

#[test]
fn a_silent_node_is_not_ready_first_and_lost_later() {
    let (up, down) = (node(Some("True"), false), node(Some("False"), false));
    let pods = || vec![pod("live", "Running", true), pod("young", "Pending", true), pod("done", "Succeeded", true)];
    for (name, node, silent, known, pods, expected) in [
        ("new", node(None, false), 0, 0, vec![], "ready: true, after 8s"),
        ("never heard of", node(None, false), u64::MAX, 0, vec![], "ready: false, after 4s"),
        ("heard of", up.clone(), 3, 0, vec![], "after 5s"),
        ("silent", up.clone(), 8, 0, vec![], "ready: false, after 4s"),
        ("silent for long, as nothing could be written", up, 60, 0, vec![], "ready: false, after 4s"),
        ("not ready, since just now", down.clone(), 60, 1, vec![], "after 3s"),
        ("not ready, and its lease is not over", down.clone(), 10, 2, vec![], "after 2s"),
        ("lost", down.clone(), 12, 4, pods(), "lose live, lose young, after 12s"),
        ("lost, and said to be", down.clone(), 30, 20, vec![pod("live", "Failed", true)], "after 12s"),
        ("back", down, 0, 20, vec![], "ready: true, after 8s"),
    ] {
        assert_eq!(words(&node, silent, known, pods), expected, "{name}");
    }
}

#[test]
fn a_node_that_is_deleted_gives_up_its_pods_before_it_goes() {
    let going = node(Some("True"), true);
    let lost = vec![pod("live", "Running", true), pod("done", "Succeeded", true)];
    assert_eq!(words(&going, 0, 0, lost), "lose live, after 0s");
    let ended = vec![pod("live", "Failed", true), pod("done", "Succeeded", false)];
    assert_eq!(words(&going, 0, 0, ended), "release live, forget, wait");
    assert_eq!(words(&going, 0, 0, vec![]), "forget, wait");
}

#[tokio::test(start_paused = true)]
async fn silence_is_counted_from_what_was_seen() {
    let clock = Clock::virtual_from(Timestamp::UNIX_EPOCH);
    let watchful = Watchful::new(clock);
    let lease = |renewed: &str| -> Lease {
        serde_json::from_value(json!({ "metadata": {}, "spec": { "renewTime": renewed } })).unwrap()
    };
    let (old, new) = (lease("2001-01-01T00:00:00.000000Z"), lease("2001-01-01T00:00:03.000000Z"));
    let seconds = Duration::from_secs;
    let silence = |of_agent, known| Silence { of_agent: seconds(of_agent), known: seconds(known) };
    assert_eq!(watchful.look("box", Some(&old), true), silence(0, 0), "its age says nothing");
    tokio::time::advance(seconds(9)).await;
    assert_eq!(watchful.look("box", Some(&old), true), silence(9, 0));
    watchful.said("box", false);
    tokio::time::advance(seconds(1)).await;
    assert_eq!(watchful.look("box", Some(&old), false), silence(10, 1));
    tokio::time::advance(seconds(5)).await;
    assert_eq!(watchful.look("box", Some(&old), false), silence(15, 6));
    assert_eq!(watchful.look("box", Some(&new), false), silence(0, 6), "it is back");
    assert_eq!(watchful.look("box", Some(&new), true), silence(0, 0));
    assert_eq!(watchful.look("box", None, true).of_agent, Duration::MAX);
}
