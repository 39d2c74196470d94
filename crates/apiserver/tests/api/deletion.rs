//! Deletion: finalizers, propagation, preconditions, grace, collections, dry runs.

use serde_json::{Value, json};

use crate::harness::{Harness, configmap, configmaps};

async fn held(api: &Harness, name: &str) -> Value {
    let mut object = configmap(name);
    object["metadata"]["finalizers"] = json!(["example.org/hold"]);
    api.post(&configmaps(""), &object).await.expect(201)
}

async fn delete(api: &Harness, path: &str, options: Value) -> crate::harness::Answer {
    api.call("DELETE", path, "application/json", options.to_string()).await
}

/// R27.
#[tokio::test]
async fn finalizers_hold_an_object_and_only_go() {
    let api = Harness::new().await;
    held(&api, "a").await;
    let going = api.delete(&configmaps("/a")).await.expect(200);
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.org/hold", "example.org/more"]}});
    api.merge(&configmaps("/a"), &more).await.refused(422, "no new finalizers can be added");
    let alive = json!({"metadata": {"deletionTimestamp": null}});
    let still = api.merge(&configmaps("/a"), &alive).await.expect(200);
    assert!(still["metadata"]["deletionTimestamp"].is_string(), "a deletion cannot be taken back");
    // Deleting again changes nothing.
    let again = api.delete(&configmaps("/a")).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], still["metadata"]["resourceVersion"]);
    let mut watch = api
        .lines(&configmaps(&format!(
            "?watch=1&resourceVersion={}",
            again["metadata"]["resourceVersion"].as_str().unwrap()
        )))
        .await;
    let last = json!([{"op": "test", "path": "/metadata/finalizers/0", "value": "example.org/hold"}, {"op": "remove", "path": "/metadata/finalizers/0"}]);
    api.json_patch(&configmaps("/a"), &last).await.expect(200);
    api.get(&configmaps("/a")).await.refused(404, "not found");
    assert_eq!(watch.event().await.0, "DELETED");
}

#[tokio::test]
async fn propagation_leaves_word_for_the_garbage_collector() {
    let api = Harness::new().await;
    for (name, policy, finalizers) in
        [("f", "Foreground", json!(["foregroundDeletion"])), ("o", "Orphan", json!(["orphan"]))]
    {
        api.post(&configmaps(""), &configmap(name)).await.expect(201);
        let path = configmaps(&format!("/{name}"));
        let going = delete(&api, &path, json!({"propagationPolicy": policy})).await.expect(200);
        assert_eq!(going["metadata"]["finalizers"], finalizers);
        api.merge(&path, &json!({"metadata": {"finalizers": null}})).await.expect(200);
        api.get(&path).await.refused(404, "not found");
    }
    api.post(&configmaps(""), &configmap("b")).await.expect(201);
    let path = configmaps("/b?propagationPolicy=Background");
    assert_eq!(api.delete(&path).await.expect(200)["status"], "Success");
    api.delete(&configmaps("/b?propagationPolicy=Sideways")).await.refused(400, "propagationPolicy");
}

#[tokio::test]
async fn preconditions_must_hold() {
    let api = Harness::new().await;
    let made = api.post(&configmaps(""), &configmap("a")).await.expect(201);
    let path = configmaps("/a");
    delete(&api, &path, json!({"preconditions": {"uid": "other"}})).await.refused(409, "Precondition failed: UID");
    let stale = json!({"preconditions": {"resourceVersion": "1"}});
    delete(&api, &path, stale).await.refused(409, "Precondition failed: ResourceVersion");
    let fits = json!({"preconditions": {"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}});
    delete(&api, &path, fits).await.expect(200);
    delete(&api, &path, json!({"preconditions": 1})).await.refused(400, "DeleteOptions");
}

#[tokio::test]
async fn a_pod_is_given_time_and_less_time() {
    let api = Harness::new().await;
    let path = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "metadata": {"name": "p", "finalizers": ["mainstay.dev/node"]},
        "spec": {"containers": [{"name": "agent", "command": ["true"]}], "restartPolicy": "Never", "nodeName": "local",
                 "terminationGracePeriodSeconds": 20},
    });
    let made = api.post(path, &pod).await.expect(201);
    let one = format!("{path}/p");
    let going = api.delete(&one).await.expect(200);
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 20);
    assert_eq!(going["metadata"]["generation"].as_i64().unwrap(), made["metadata"]["generation"].as_i64().unwrap() + 1);
    let sooner = delete(&api, &one, json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 0);
    let later = delete(&api, &one, json!({"gracePeriodSeconds": 60})).await.expect(200);
    assert_eq!(later, sooner, "grace is only ever shortened");
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let api = Harness::new().await;
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut object = configmap(name);
        object["metadata"]["labels"] = json!({"l": label});
        api.post(&configmaps(""), &object).await.expect(201);
    }
    let gone = api.delete(&configmaps("?labelSelector=l%3Dx")).await.expect(200);
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    assert_eq!(api.get(&configmaps("")).await.expect(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn dry_runs_change_nothing() {
    let api = Harness::new().await;
    let before = api.post(&configmaps(""), &configmap("a")).await.expect(201);
    let made = api.post(&configmaps("?dryRun=All"), &configmap("b")).await.expect(201);
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"].is_null());
    api.post(&configmaps("?dryRun=All"), &configmap("a")).await.refused(409, "already exists");
    let patched = api.merge(&configmaps("/a?dryRun=All"), &json!({"data": {"k": "2"}})).await.expect(200);
    assert_eq!(patched["data"]["k"], "2");
    assert_eq!(api.delete(&configmaps("/a?dryRun=All")).await.expect(200)["status"], "Success");
    delete(&api, &configmaps("/a"), json!({"dryRun": ["All"]})).await.expect(200);
    api.delete(&configmaps("/a?dryRun=Some")).await.refused(400, "dryRun");
    api.post(&configmaps("?dryRun=Some"), &configmap("b")).await.refused(400, "dryRun");
    let list = api.get(&configmaps("")).await.expect(200);
    assert_eq!(list["items"], json!([before]));
}

#[tokio::test]
async fn the_platforms_namespaces_are_not_deleted() {
    let api = Harness::new().await;
    for name in ["default", "mainstay-system"] {
        let path = format!("/api/v1/namespaces/{name}");
        api.delete(&path).await.refused(403, "this namespace may not be deleted");
    }
}
