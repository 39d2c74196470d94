//! The garbage collector against an API in memory, in virtual time (R7).

use std::sync::Arc;
use std::time::Duration;

use crate::support::FakeApi;
use mainstay_api::Registry;
use mainstay_controllers::FencingToken;
use mainstay_controllers::driver::{Metrics, Surroundings};
use mainstay_controllers::garbage::Collector;
use mainstay_runtime::{Clock, Tasks};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/demo/configmaps";
const NOW: &str = "2026-01-01T00:00:00Z";

fn start(api: &FakeApi) -> (Tasks, Arc<Metrics>) {
    let (tasks, clock) = (Tasks::new(), Clock::virtual_from(NOW.parse().unwrap()));
    let surroundings = Surroundings { tasks: tasks.clone(), clock, fence: FencingToken(1) };
    let metrics = Arc::new(Metrics::default());
    let collector = Collector::new(api.client(), &Registry::standard(), Arc::clone(&metrics));
    collector.start(&surroundings);
    (tasks, metrics)
}

fn path(name: &str) -> String {
    format!("{MAPS}/{name}")
}

fn owned_by(owners: &[&Value], blocks: bool) -> Value {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| {
            let meta = &owner["metadata"];
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": meta["name"], "uid": meta["uid"], "blockOwnerDeletion": blocks })
        })
        .collect();
    json!({ "metadata": { "ownerReferences": owners } })
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect(what);
}

/// Long enough in virtual time for anything that would be done wrongly.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

/// R7.
#[tokio::test(start_paused = true)]
async fn dependents_go_when_all_their_owners_are_gone() {
    let api = FakeApi::new();
    let (one, two) =
        (api.add(&path("one"), json!({ "metadata": {} })), api.add(&path("two"), json!({ "metadata": {} })));
    api.add(&path("child"), owned_by(&[&one], false));
    api.add(&path("shared"), owned_by(&[&one, &two], false));
    api.add(&path("free"), json!({ "metadata": {} }));
    let _running = start(&api);
    settle().await;
    api.remove(&path("one"));
    until("the child goes", || api.object(&path("child")).is_none()).await;
    until("the shared one keeps the other owner alone", || {
        api.object(&path("shared"))
            .is_some_and(|shared| shared["metadata"]["ownerReferences"].as_array().is_some_and(|all| all.len() == 1))
    })
    .await;
    api.remove(&path("two"));
    until("the shared one goes", || api.object(&path("shared")).is_none()).await;
    settle().await;
    assert!(api.object(&path("free")).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_was_orphaned_while_nobody_looked_is_found() {
    let api = FakeApi::new();
    let ghost = json!({ "metadata": { "name": "ghost", "uid": "uid-of-nobody" } });
    api.add(&path("a"), owned_by(&[&ghost], false));
    let grandchild = api.object(&path("a")).expect("a");
    api.add(&path("b"), owned_by(&[&grandchild], false));
    let _running = start(&api);
    until("both go", || api.object(&path("a")).is_none() && api.object(&path("b")).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_made_anew_under_its_name_is_another() {
    let api = FakeApi::new();
    let owner = api.add(&path("owner"), json!({ "metadata": {} }));
    api.add(&path("child"), owned_by(&[&owner], false));
    let _running = start(&api);
    settle().await;
    api.remove(&path("owner"));
    api.add(&path("owner"), json!({ "metadata": {} }));
    until("the child goes", || api.object(&path("child")).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn foreground_deletion_takes_the_dependents_first() {
    let api = FakeApi::new();
    let owner = api.add(&path("owner"), json!({ "metadata": {} }));
    let mut held = owned_by(&[&owner], true);
    held["metadata"]["finalizers"] = json!(["test/held"]);
    api.add(&path("child"), held);
    let _running = start(&api);
    settle().await;
    api.change(&path("owner"), |owner| {
        owner["metadata"]["deletionTimestamp"] = json!(NOW);
        owner["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    });
    until("the child is told", || {
        api.object(&path("child")).is_some_and(|child| child["metadata"]["deletionTimestamp"].is_string())
    })
    .await;
    settle().await;
    assert!(api.object(&path("owner")).is_some(), "it waits");
    api.remove(&path("child"));
    until("the owner goes", || api.object(&path("owner")).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn orphaning_lets_the_dependents_go() {
    let api = FakeApi::new();
    let owner = api.add(&path("owner"), json!({ "metadata": {} }));
    api.add(&path("child"), owned_by(&[&owner], true));
    let _running = start(&api);
    settle().await;
    api.change(&path("owner"), |owner| {
        owner["metadata"]["deletionTimestamp"] = json!(NOW);
        owner["metadata"]["finalizers"] = json!(["orphan"]);
    });
    until("the owner goes", || api.object(&path("owner")).is_none()).await;
    settle().await;
    let child = api.object(&path("child")).expect("the child stays");
    assert_eq!(child["metadata"]["ownerReferences"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn owners_that_cannot_be_judged_keep_their_dependents() {
    let api = FakeApi::new();
    let mut strange = owned_by(&[&json!({ "metadata": { "name": "x", "uid": "y" } })], false);
    strange["metadata"]["ownerReferences"][0]["kind"] = json!("Unheard");
    api.add(&path("strange"), strange);
    let cluster_wide = owned_by(&[&json!({ "metadata": { "name": "x", "uid": "y" } })], false);
    api.add("/apis/mainstay.dev/v1alpha1/projects/wide", cluster_wide);
    let _running = start(&api);
    settle().await;
    assert!(api.object(&path("strange")).is_some());
    assert!(api.object("/apis/mainstay.dev/v1alpha1/projects/wide").is_some());
}

/// The collector lives as long as the server: what it has looked at must not stay with it.
/// R36.
#[tokio::test(start_paused = true)]
async fn what_was_looked_at_is_forgotten() {
    let api = FakeApi::new();
    let ghost = json!({ "metadata": { "name": "ghost", "uid": "uid-of-nobody" } });
    let mut kept = owned_by(&[&ghost], false);
    kept["metadata"]["ownerReferences"][0]["kind"] = json!("Unheard");
    let (_tasks, metrics) = start(&api);
    settle().await;
    for number in 0..50 {
        api.add(&path(&format!("orphan-{number}")), owned_by(&[&ghost], false));
        api.add(&path(&format!("kept-{number}")), kept.clone());
    }
    until("the orphans go", || (0..50).all(|number| api.object(&path(&format!("orphan-{number}"))).is_none())).await;
    until("all are looked at", || metrics.reconciles.get() >= 100).await;
    until("and forgotten", || metrics.keys.get() == 0).await;
    assert!(api.object(&path("kept-49")).is_some());
}
