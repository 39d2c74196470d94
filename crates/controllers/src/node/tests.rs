use std::sync::Arc;

use serde_json::Value;

use super::serving::Watched;
use super::*;
use mainstay_runtime::Clock;

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
    let silent = Duration::from_secs(silent);
    words_of(node, Silence { of_agent: silent, counted: silent, known: Duration::from_secs(known) }, pods)
}

fn words_of(node: &Node, silence: Silence, pods: Vec<Pod>) -> String {
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
    let silence =
        |of_agent, known| Silence { of_agent: seconds(of_agent), counted: seconds(of_agent), known: seconds(known) };
    let look = |lease, ready| watchful.look("box", lease, ready, Duration::MAX);
    assert_eq!(look(Some(&old), true), silence(0, 0), "its age says nothing");
    tokio::time::advance(seconds(9)).await;
    assert_eq!(look(Some(&old), true), silence(9, 0));
    watchful.said("box", false);
    tokio::time::advance(seconds(1)).await;
    assert_eq!(look(Some(&old), false), silence(10, 1));
    tokio::time::advance(seconds(5)).await;
    assert_eq!(look(Some(&old), false), silence(15, 6));
    assert_eq!(look(Some(&new), false), silence(0, 6), "it is back");
    assert_eq!(look(Some(&new), true), silence(0, 0));
    assert_eq!(look(None, true).of_agent, Duration::MAX);
}

#[test]
fn silence_says_nothing_while_the_api_is_not_served() {
    let (up, down) = (node(Some("True"), false), node(Some("False"), false));
    let seconds = Duration::from_secs;
    let of = |counted, known| Silence { of_agent: seconds(60), counted: seconds(counted), known: seconds(known) };
    for (name, node, silence, expected) in [
        ("it was ready, and nobody serves", &up, of(0, 0), "after 8s"),
        ("it was ready, and somebody serves again", &up, of(7, 0), "after 1s"),
        ("it could have been heard for long enough", &up, of(8, 0), "ready: false, after 4s"),
        ("it was not ready, and nobody serves", &down, of(0, 60), "after 12s"),
        ("it was not ready, and somebody serves again", &down, of(11, 70), "after 1s"),
        ("it is lost", &down, of(12, 70), "lose live, after 12s"),
    ] {
        let pods = if is_lost(silence) { vec![pod("live", "Running", true)] } else { Vec::new() };
        assert_eq!(words_of(node, silence, pods), expected, "{name}");
    }
    let new = Silence { of_agent: Duration::MAX, counted: Duration::ZERO, known: Duration::ZERO };
    assert_eq!(words_of(&node(None, false), new, vec![]), "ready: false, after 12s");
}

#[tokio::test(start_paused = true)]
async fn the_api_is_served_while_some_servers_lease_is_seen_to_change() {
    let watched = Arc::new(Watched::new(Clock::virtual_from(Timestamp::UNIX_EPOCH)));
    let serving = Serving::Elsewhere(Arc::clone(&watched));
    let lease = |name: &str, second: u64| -> Lease {
        let renewed = format!("2001-01-01T00:00:{second:02}.000000Z");
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "renewTime": renewed } })).unwrap()
    };
    let (seconds, wait) = (Duration::from_secs, |span| tokio::time::advance(Duration::from_secs(span)));
    assert_eq!(serving.span(), Duration::ZERO, "nothing is known yet");
    watched.look(&[lease("a", 1), lease("b", 1)]);
    assert_eq!(serving.span(), Duration::ZERO, "they may be old");
    wait(2).await;
    watched.look(&[lease("a", 2), lease("b", 1)]);
    wait(5).await;
    assert_eq!(serving.span(), seconds(5), "a is there");
    watched.look(&[lease("a", 2), lease("b", 2), lease("c", 1)]);
    wait(5).await;
    assert_eq!(serving.span(), seconds(10), "then b");
    wait(1).await;
    assert_eq!(serving.span(), Duration::ZERO, "now none; c was only found");
    watched.look(&[lease("b", 2), lease("c", 1)]);
    assert_eq!(serving.span(), Duration::ZERO);
    wait(60).await;
    watched.look(&[lease("b", 3), lease("c", 1)]);
    wait(3).await;
    assert_eq!(serving.span(), seconds(3), "from when it came back");
    // Our own standstill is one of theirs, as far as we can tell.
    wait(60).await;
    watched.look(&[lease("b", 40), lease("c", 1)]);
    assert_eq!(serving.span(), Duration::ZERO);
    watched.look(&[]);
    assert_eq!(serving.span(), Duration::MAX, "servers of an older version have no lease");
    assert_eq!(Serving::Here.span(), Duration::MAX);
}
