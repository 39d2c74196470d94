//! Operations: what the API lets be ordered, changed and deleted, and how the queue shows in what is read.

use std::sync::Arc;
use std::time::Duration;

use mainstay_apiserver::Limits;
use mainstay_apiserver::operation::Objects;
use mainstay_runtime::Clock;
use mainstay_store::operation::{Claim, Claimed, Ending, Ledger, Note, Settlement, State, StepRow, StepState};
use serde_json::{Value, json};

use crate::harness::Harness;

pub(crate) fn operations(rest: &str) -> String {
    format!("/apis/mainstay.dev/v1alpha1/namespaces/default/operations{rest}")
}

pub(crate) fn operation(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"handler": "drill", "payload": {"n": 1, "none": null}}})
}

/// One that serves a project, which is made when it is not there.
pub(crate) async fn owned(api: &Harness, name: &str, owner: &str) -> Value {
    let path = "/apis/mainstay.dev/v1alpha1/projects";
    api.post(path, &json!({"metadata": {"name": owner}, "spec": {}})).await;
    let uid = api.get(&format!("{path}/{owner}")).await.expect(200)["metadata"]["uid"].clone();
    let mut body = operation(name);
    body["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "mainstay.dev/v1alpha1", "kind": "Project", "name": owner, "uid": uid, "controller": true},
    ]);
    api.post(&operations(""), &body).await.expect(201)
}

pub(crate) fn now_ms() -> i64 {
    Clock::system().now().as_millisecond()
}

/// Claims what can be claimed.
pub(crate) async fn claim(api: &Harness) -> Vec<Claimed> {
    let claim = Claim { limit: 1_000, per_lane: 1_000, lease: Duration::from_mins(1), now_ms: now_ms() };
    api.store.claim(claim).await.unwrap().claimed
}

/// Claims the one that can be claimed.
pub(crate) async fn claim_one(api: &Harness) -> Claimed {
    let mut claimed = claim(api).await;
    assert_eq!(claimed.len(), 1);
    claimed.pop().unwrap()
}

/// Ends an attempt as a worker does, at a time that it says.
pub(crate) async fn end_at(api: &Harness, claimed: &Claimed, state: State, reason: &str, at_ms: i64) {
    let object = api.store.get(&claimed.object.key).await.unwrap().unwrap();
    let standing = api.store.operations(vec![claimed.attempt.id.clone()]).await.unwrap().pop().flatten().unwrap();
    let (message, output) = ("as the test says".into(), json!({"id": 5}));
    let ending = Ending { state, reason: reason.into(), message, output, standing, at_ms };
    let write = Box::new(Objects.end(&object, &ending).unwrap());
    api.store.settle(&claimed.attempt, Settlement::End { state, note: None, write }).await.unwrap();
}

pub(crate) async fn end(api: &Harness, claimed: &Claimed, state: State, reason: &str) {
    end_at(api, claimed, state, reason, now_ms()).await;
}

#[tokio::test]
async fn an_operation_is_shown_from_its_creation_to_its_end() {
    let api = Harness::new().await;
    let made = api.post(&operations(""), &operation("a")).await.expect(201);
    assert_eq!(made["status"], json!({"phase": "Pending", "attempts": 0, "failures": 0}));
    assert_eq!(made["metadata"]["finalizers"], json!(["mainstay.dev/operation"]));
    assert_eq!((&made["spec"]["project"], &made["spec"]["maxAttempts"]), (&json!("default"), &json!(5)));
    assert_eq!(made["spec"]["payload"], json!({"n": 1, "none": null}));
    let claimed = claim_one(&api).await;
    let order = Objects.order(&claimed.object).unwrap();
    assert_eq!((&*order.work.id, &*order.work.handler), (made["metadata"]["uid"].as_str().unwrap(), "drill"));
    let entry = StepRow { step: "make".into(), state: StepState::Intent, attempt: 1, output: "null".into() };
    api.store.journal(&claimed.attempt, entry).await.unwrap();
    let running = api.get(&operations("/a")).await.expect(200);
    assert_eq!((&running["status"]["phase"], &running["status"]["attempts"]), (&json!("Running"), &json!(1)));
    assert_eq!(running["status"]["steps"], json!([{"name": "make", "state": "Intent", "attempt": 1}]));
    assert!(running["status"]["startedAt"].is_string());
    assert_eq!(running["metadata"], made["metadata"], "progress takes no revision");
    assert_eq!(api.get(&operations("")).await.expect(200)["items"], json!([running]), "a list shows the same");
    let table = api.get_as(&operations(""), "application/json;as=Table;g=meta.k8s.io;v=v1").await.expect(200);
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..4],
        [json!("a"), json!("drill"), json!("Running"), json!(1)]
    );
    end(&api, &claimed, State::Succeeded, "Succeeded").await;
    let ended = api.get(&operations("/a")).await.expect(200);
    let status = &ended["status"];
    assert_eq!((&status["phase"], &status["output"]), (&json!("Succeeded"), &json!({"id": 5})));
    assert!(status["finishedAt"].is_string() && status["message"] == "as the test says");
    assert_eq!(
        api.get(&operations("?fieldSelector=status.phase%3DSucceeded")).await.expect(200)["items"],
        json!([ended])
    );
    assert!(claim(&api).await.is_empty());
}

#[tokio::test]
async fn a_wait_says_what_for() {
    let api = Harness::new().await;
    let mut later = operation("later");
    later["spec"]["runAt"] = json!("2999-01-01T00:00:00Z");
    api.post(&operations(""), &later).await.expect(201);
    for name in ["first", "second"] {
        let mut body = operation(name);
        body["spec"]["concurrencyKey"] = "k".into();
        api.post(&operations(""), &body).await.expect(201);
    }
    let why = async |name: &str| {
        let status = api.get(&operations(&format!("/{name}"))).await.expect(200)["status"].clone();
        format!("{} {}", status["phase"].as_str().unwrap(), status["reason"].as_str().unwrap_or("-"))
    };
    assert_eq!(why("later").await, "Waiting NotDue");
    let claimed = claim_one(&api).await;
    assert_eq!(why("second").await, "Waiting Blocked");
    let (reason, message) = ("Transient".to_owned(), "away".to_owned());
    let note = Note { attempt: 1, started_ms: now_ms(), ended_ms: now_ms(), reason, message };
    let settlement = Settlement::Retry { run_at_ms: now_ms() + 3_600_000, note, undoing: None };
    api.store.settle(&claimed.attempt, settlement).await.unwrap();
    assert_eq!(why("first").await, "Waiting Retrying");
    let first = api.get(&operations("/first")).await.expect(200);
    assert_eq!((&first["status"]["failures"], &first["status"]["history"][0]["message"]), (&json!(1), &json!("away")));
    assert!(first["status"]["nextAttemptAt"].is_string());
}

#[tokio::test]
async fn one_that_is_cancelled_is_told_so_and_one_that_died_begins_again() {
    let api = Harness::new().await;
    api.post(&operations(""), &operation("a")).await.expect(201);
    let path = operations("/a");
    let (cancel, replay) = (json!({"spec": {"cancelled": true}}), json!({"spec": {"replays": 1}}));
    api.merge(&path, &replay).await.refused(422, "spec.replays: Forbidden: it has not died");
    let claimed = claim_one(&api).await;
    api.merge(&path, &replay).await.refused(422, "it has not died");
    end(&api, &claimed, State::Dead, "Invalid").await;
    api.merge(&path, &cancel).await.refused(422, "it has ended already: it is Dead");
    let again = api.merge(&path, &replay).await.expect(200);
    assert_eq!(
        again["status"],
        json!({"phase": "Pending", "attempts": 1, "failures": 0, "startedAt": again["status"]["startedAt"]})
    );
    let claimed = claim_one(&api).await;
    assert_eq!(claimed.attempt.number, 2, "attempts are never numbered anew");
    let told = api.merge(&path, &cancel).await.expect(200);
    assert_eq!((&told["status"]["phase"], &told["status"]["reason"]), (&json!("Running"), &json!("Cancelling")));
    let renewed = api.store.renew(vec![claimed.attempt.clone()], Duration::from_mins(1)).await.unwrap();
    assert_eq!(renewed, [mainstay_store::operation::Renewal::Cancelled]);
    end(&api, &claimed, State::Cancelled, "Cancelled").await;
    api.merge(&path, &json!({"spec": {"replays": 2}})).await.refused(422, "it has not died");
    api.merge(&path, &json!({"spec": {"cancelled": false}})).await.refused(422, "cannot be taken back");
}

#[tokio::test]
async fn the_order_and_its_status_are_nobodys_to_write() {
    let api = Harness::new().await;
    let mut with_status = operation("a");
    with_status["status"] = json!({"phase": "Succeeded"});
    api.post(&operations(""), &with_status).await.refused(422, "status: Forbidden: is written by the queue");
    let made = api.post(&operations(""), &operation("a")).await.expect(201);
    let status = json!({"status": {"phase": "Succeeded"}});
    api.merge(&operations("/a/status"), &status).await.refused(403, "written by the queue");
    api.put(&operations("/a/status"), &made).await.refused(403, "written by the queue");
    assert_eq!(api.get(&operations("/a/status")).await.expect(200)["status"]["phase"], "Pending");
    // What is ignored on the main path of every kind is ignored here.
    let ignored = api.merge(&operations("/a"), &status).await.expect(200);
    assert_eq!(ignored["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    api.merge(&operations("/a"), &json!({"spec": {"payload": {"n": 2}}})).await.refused(422, "spec.payload: Forbidden");
    api.merge(&operations("/a"), &json!({"metadata": {"finalizers": null}})).await.refused(422, "is the server's");
    // Without what the server filled in it is still the same order.
    let mut plain = operation("a");
    plain["metadata"] = json!({"name": "a", "resourceVersion": made["metadata"]["resourceVersion"],
                               "finalizers": made["metadata"]["finalizers"], "labels": {"l": "x"}});
    api.put(&operations("/a"), &plain).await.expect(200);
    let mut owned = operation("b");
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v9", "kind": "Castle", "name": "c", "uid": "u", "controller": true}]);
    api.post(&operations(""), &owned).await.refused(422, "metadata.ownerReferences[0].kind: Invalid value: \"Castle\"");
}

fn items(count: usize) -> Vec<Value> {
    (0..count).map(|at| operation(&format!("op-{at}"))).collect()
}

#[tokio::test]
async fn many_are_created_at_once_each_on_its_own() {
    let api = Harness::new().await;
    let list =
        |items: Vec<Value>| json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "OperationList", "items": items});
    let before = api.store.stats().commits;
    let made = api.post(&operations(""), &list(items(512))).await.expect(201);
    assert!(api.store.stats().commits - before <= 16, "they share commits");
    assert_eq!(made["kind"], "OperationList");
    let names: Vec<&str> =
        made["items"].as_array().unwrap().iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    assert_eq!((names.len(), names[0], names[511]), (512, "op-0", "op-511"));
    assert_eq!(claim(&api).await.len(), 512);
    let mut wrong = operation("wrong");
    wrong["spec"]["handler"] = "No".into();
    let mixed = vec![operation("op-3"), operation("new"), wrong, json!({"kind": "Pod"}), json!(5)];
    let mixed = api.post(&operations(""), &list(mixed)).await.expect(200);
    let told: Vec<String> = mixed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| format!("{} {}", item["kind"].as_str().unwrap(), item["reason"].as_str().unwrap_or("-")))
        .collect();
    assert_eq!(
        told,
        ["Status AlreadyExists", "Operation -", "Status Invalid", "Status BadRequest", "Status BadRequest"]
    );
    assert_eq!(mixed["items"][0]["details"]["name"], "op-3");
    let dry = api.post(&operations("?dryRun=All"), &list(vec![operation("dry")])).await.expect(201);
    assert_eq!(dry["items"][0]["metadata"]["name"], "dry");
    api.get(&operations("/dry")).await.refused(404, "not found");
    api.post(&operations(""), &list(items(513)))
        .await
        .refused(413, "513 items are more than one request creates (512)");
    api.post(&operations(""), &json!({"kind": "OperationList"})).await.refused(400, "items must be a list");
    let other = "/apis/mainstay.dev/v1alpha1/namespaces/nowhere/operations";
    api.post(other, &list(items(1))).await.refused(404, "namespaces \"nowhere\" not found");
    let configmaps = json!({"apiVersion": "v1", "kind": "ConfigMapList", "items": []});
    api.post(&crate::harness::configmaps(""), &configmaps).await.refused(400, "does not match the expected kind");
}

#[tokio::test]
async fn two_lists_of_the_same_names_create_each_once() {
    let api = Arc::new(Harness::new().await);
    let list = json!({"kind": "OperationList", "items": items(64)});
    let (path, other) = (operations(""), operations(""));
    let (one, two) = tokio::join!(api.post(&path, &list), api.post(&other, &list));
    let count =
        |answer: Value| answer["items"].as_array().unwrap().iter().filter(|item| item["kind"] == "Operation").count();
    assert_eq!(count(one.json()) + count(two.json()), 64);
    assert_eq!(claim(&api).await.len(), 64);
}

/// There may be more of them than memory holds: no request makes the server hold them all.
#[tokio::test]
async fn no_request_holds_more_of_them_than_it_may() {
    let api = Harness::with(Limits { page: 10, on_disk: 20, delete_collection: 15, ..Limits::default() }).await;
    for at in 0..25 {
        let handler = if at < 5 { "rare" } else { "often" };
        let body = json!({"metadata": {"name": format!("o{at:02}")}, "spec": {"handler": handler}});
        api.post(&operations(""), &body).await.expect(201);
    }
    let first = api.get(&operations("")).await.expect(200);
    assert_eq!(first["items"].as_array().map(Vec::len), Some(10), "who asks for no pages gets one");
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = api.get(&operations(&format!("?continue={token}"))).await.expect(200);
    assert_eq!(second["items"][0]["metadata"]["name"], "o10");
    let why = "more than 20 operations match, more than one request can hold; narrow it with a selector, or list them in \
               pages (limit, continue) and watch from the list's resourceVersion";
    api.get(&operations("?watch=1")).await.refused(413, why);
    let mut rare = api.lines(&operations("?watch=1&fieldSelector=spec.handler=rare&timeoutSeconds=60")).await;
    for at in 0..5 {
        assert_eq!(rare.event().await.1["metadata"]["name"], format!("o{at:02}"));
    }
    api.delete(&operations("")).await.refused(413, why);
    api.delete(&operations("?fieldSelector=spec.handler=rare")).await.expect(200);
    assert_eq!(api.get(&operations("?limit=100")).await.expect(200)["items"].as_array().map(Vec::len), Some(10));
}
