//! Operations that go: not before their outcome is where it belongs, and then by themselves.

use mainstay_store::operation::{State, StepRow, StepState};
use serde_json::{Value, json};

use crate::harness::Harness;
use crate::operations::{claim, claim_one, end, end_at, now_ms, operation, operations, owned};

const PROJECT: &str = "/apis/mainstay.dev/v1alpha1/projects/owner";
const HOUR: i64 = 3_600_000;

/// Its owner notes how it stands.
async fn note(api: &Harness, name: &str) -> Value {
    let operation = api.get(&operations(&format!("/{name}"))).await.expect(200);
    let (metadata, status) = (&operation["metadata"], &operation["status"]);
    let noted = json!({"name": metadata["name"], "uid": metadata["uid"], "phase": status["phase"],
                       "finishedAt": status["finishedAt"]});
    let known = api.get(PROJECT).await.expect(200)["status"]["operations"].clone();
    let all: Vec<Value> = known.as_array().into_iter().flatten().cloned().chain([noted]).collect();
    api.merge(&format!("{PROJECT}/status"), &json!({"status": {"operations": all}})).await.expect(200)
}

/// The owner goes, whatever holds it.
async fn remove_owner(api: &Harness) {
    api.delete(PROJECT).await.expect(200);
    api.merge(PROJECT, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    api.get(PROJECT).await.refused(404, "not found");
}

async fn names(api: &Harness) -> Vec<String> {
    let list = api.get(&operations("")).await.expect(200);
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_nobody_waits_for_is_cancelled_and_goes_with_its_end() {
    let api = Harness::new().await;
    let path = operations("/a");
    api.post(&operations(""), &operation("a")).await.expect(201);
    let claimed = claim_one(&api).await;
    let going = api.delete(&path).await.expect(200);
    assert!(going["metadata"]["deletionTimestamp"].is_string() && going["spec"]["cancelled"] == true);
    let again = api.delete(&path).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], going["metadata"]["resourceVersion"]);
    api.merge(&path, &json!({"metadata": {"finalizers": null}})).await.refused(422, "is the server's");
    let revision = going["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api.lines(&operations(&format!("?watch=1&resourceVersion={revision}"))).await;
    end(&api, &claimed, State::Cancelled, "Cancelled").await;
    let (kind, last) = watch.event().await;
    assert_eq!((kind.as_str(), &last["status"]["phase"]), ("DELETED", &json!("Cancelled")));
    api.get(&path).await.refused(404, "not found");
    assert!(api.store.operations(vec![claimed.attempt.id]).await.unwrap()[0].is_none(), "its row went with it");
    // One that has ended goes at once.
    api.post(&operations(""), &operation("b")).await.expect(201);
    end(&api, &claim_one(&api).await, State::Dead, "Invalid").await;
    assert_eq!(api.delete(&operations("/b")).await.expect(200)["status"], "Success");
    assert!(names(&api).await.is_empty());
}

#[tokio::test]
async fn an_outcome_is_not_lost_to_its_owner() {
    let api = Harness::new().await;
    let path = operations("/a");
    owned(&api, "a", "owner").await;
    let refused = api.delete(&path).await.expect(409);
    assert!(refused["message"].as_str().unwrap().contains("cancel it first (spec.cancelled: true)"), "{refused}");
    assert_eq!(refused["details"]["causes"][0]["reason"], "OperationNotEnded");
    end(&api, &claim_one(&api).await, State::Dead, "Invalid").await;
    let refused = api.delete(&path).await.expect(409);
    assert!(refused["message"].as_str().unwrap().contains("Project \"owner\" has not noted that"), "{refused}");
    assert_eq!(refused["details"]["causes"][0]["reason"], "OutcomeNotStored");
    note(&api, "a").await;
    // A replay makes another end, which is not noted yet.
    api.merge(&path, &json!({"spec": {"replays": 1}})).await.expect(200);
    api.delete(&path).await.refused(409, "it has not ended");
    end_at(&api, &claim_one(&api).await, State::Dead, "Invalid", now_ms() + 5).await;
    api.delete(&path).await.refused(409, "has not noted that");
    api.delete(&operations("")).await.refused(409, "has not noted that");
    note(&api, "a").await;
    assert_eq!(api.delete(&path).await.expect(200)["status"], "Success");
}

/// Deletes, whoever does it: a dead letter that has left something behind stays, and can be looked at.
#[tokio::test]
async fn what_died_and_left_something_is_not_forgotten_before_somebody_has_looked() {
    let api = Harness::new().await;
    owned(&api, "a", "owner").await;
    for name in ["b", "c"] {
        api.post(&operations(""), &operation(name)).await.expect(201);
    }
    for claimed in claim(&api).await {
        let state = if &*claimed.object.key.name == "c" { StepState::Undone } else { StepState::Undoing };
        let step = StepRow { step: "make".into(), state, attempt: 0, output: "null".into() };
        api.store.journal(&claimed.attempt, step).await.unwrap();
        if &*claimed.object.key.name == "b" {
            api.delete(&operations("/b")).await.expect(200);
        }
        end(&api, &claimed, State::Dead, "UndoFailed").await;
    }
    // Deleted while it failed for the last time: it is to be undone first, which fails, too.
    end(&api, &claim_one(&api).await, State::Dead, "UndoFailed").await;
    assert_eq!(api.delete(&operations("/c")).await.expect(200)["status"], "Success", "of this nothing is left");
    remove_owner(&api).await;
    let swept = api.restarted();
    let going = |list: &Value| list["items"][0]["metadata"]["deletionTimestamp"].is_string();
    let left = swept.until(&operations(""), going).await;
    let later = swept.restarted();
    drop(swept);
    drop(later.restarted());
    assert_eq!(names(&api).await, ["a", "b"]);
    for one in left["items"].as_array().unwrap() {
        assert_eq!((&one["status"]["phase"], &one["spec"]["cancelled"]), (&json!("Dead"), &json!(true)), "{one}");
    }
    for name in ["a", "b"] {
        let path = operations(&format!("/{name}"));
        assert_eq!(api.delete(&path).await.expect(200)["status"]["phase"], "Dead");
    }
    // A replay takes it back; whoever takes the finalizer off it has looked.
    api.merge(&operations("/a"), &json!({"spec": {"replays": 1}})).await.expect(200);
    let claimed = claim_one(&api).await;
    assert!(claimed.standing.row.cancelled);
    let undone = StepRow { step: "make".into(), state: StepState::Undone, attempt: 0, output: "null".into() };
    api.store.journal(&claimed.attempt, undone).await.unwrap();
    end(&api, &claimed, State::Cancelled, "Cancelled").await;
    api.merge(&operations("/b"), &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert!(names(&api).await.is_empty());
}

#[tokio::test]
async fn an_owner_that_is_gone_waits_for_nothing() {
    let api = Harness::new().await;
    for name in ["ended", "runs"] {
        owned(&api, name, "owner").await;
    }
    let claimed = claim(&api).await;
    end(&api, &claimed[0], State::Succeeded, "Succeeded").await;
    remove_owner(&api).await;
    // Another one of its name is another one.
    api.post("/apis/mainstay.dev/v1alpha1/projects", &json!({"metadata": {"name": "owner"}, "spec": {}}))
        .await
        .expect(201);
    assert_eq!(api.delete(&operations("/ended")).await.expect(200)["status"], "Success");
    let going = api.delete(&operations("/runs")).await.expect(200);
    assert_eq!(going["spec"]["cancelled"], true);
    end(&api, &claimed[1], State::Cancelled, "Cancelled").await;
    assert!(names(&api).await.is_empty());
}

#[tokio::test]
async fn a_namespace_that_goes_takes_its_operations_along() {
    let api = Harness::new().await;
    let place = "/api/v1/namespaces/team";
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.expect(201);
    for name in ["ended", "runs"] {
        let mut body = owned(&api, name, "owner").await;
        for field in ["uid", "resourceVersion", "creationTimestamp", "finalizers"] {
            body["metadata"].as_object_mut().unwrap().remove(field);
        }
        body["metadata"]["namespace"] = "team".into();
        body.as_object_mut().unwrap().remove("status");
        api.post("/apis/mainstay.dev/v1alpha1/namespaces/team/operations", &body).await.expect(201);
    }
    let claimed = claim(&api).await;
    let in_team = |name: &str| {
        let wanted = |one: &&mainstay_store::operation::Claimed| {
            *one.object.key.namespace == *"team" && *one.object.key.name == *name
        };
        claimed.iter().find(wanted).unwrap()
    };
    end(&api, in_team("ended"), State::Dead, "Invalid").await;
    let one = |name: &str| format!("/apis/mainstay.dev/v1alpha1/namespaces/team/operations/{name}");
    api.delete(&one("ended")).await.refused(409, "has not noted");
    api.delete(place).await.expect(200);
    assert_eq!(api.delete(&one("ended")).await.expect(200)["status"], "Success");
    assert_eq!(api.delete(&one("runs")).await.expect(200)["spec"]["cancelled"], true);
    end(&api, in_team("runs"), State::Cancelled, "Cancelled").await;
    api.get(&one("runs")).await.refused(404, "not found");
    assert_eq!(names(&api).await, ["ended", "runs"], "those of other namespaces stay");
}

/// A server sweeps as it starts.
#[tokio::test]
async fn what_nobody_needs_any_more_goes_by_itself() {
    let api = Harness::new().await;
    for name in ["told-old", "told-new", "untold", "under-way"] {
        owned(&api, name, "owner").await;
    }
    for name in ["own-old", "own-new", "own-dead", "own-waits"] {
        api.post(&operations(""), &operation(name)).await.expect(201);
    }
    for claimed in claim(&api).await {
        let (old, new) = (now_ms() - HOUR, now_ms() - HOUR + 60_000);
        match &*claimed.object.key.name {
            "under-way" | "own-waits" => {}
            "own-dead" => end_at(&api, &claimed, State::Dead, "Invalid", now_ms() - 29 * 24 * HOUR).await,
            "told-new" | "own-new" => end_at(&api, &claimed, State::Succeeded, "Succeeded", new).await,
            _ => end_at(&api, &claimed, State::Succeeded, "Succeeded", old).await,
        }
    }
    note(&api, "told-old").await;
    note(&api, "told-new").await;
    let swept = api.restarted();
    swept.until(&operations(""), |list| list["items"].as_array().unwrap().len() == 6).await;
    assert_eq!(names(&api).await, ["own-dead", "own-new", "own-waits", "told-new", "under-way", "untold"]);
    remove_owner(&api).await;
    let again = swept.restarted();
    let left = again.until(&operations(""), |list| list["items"].as_array().unwrap().len() == 4).await;
    assert_eq!(names(&api).await, ["own-dead", "own-new", "own-waits", "under-way"]);
    let under_way = &left["items"][3];
    assert!(under_way["spec"]["cancelled"] == true && under_way["metadata"]["deletionTimestamp"].is_string());
}
