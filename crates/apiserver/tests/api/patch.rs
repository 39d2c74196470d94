//! Merge patch and JSON patch.

use serde_json::{Value, json};

use crate::harness::{Harness, configmap, configmaps, sessions};

#[tokio::test]
async fn json_patches_apply_or_are_refused() {
    let api = Harness::new().await;
    let made = api.post(&configmaps(""), &configmap("a")).await.expect(201);
    let uid = made["metadata"]["uid"].clone();
    // (patch, status, words of the refusal)
    let table: [(Value, u16, &str); 9] = [
        (
            json!([{"op": "test", "path": "/metadata/finalizers", "value": null}, {"op": "add", "path": "/data/x", "value": "1"}]),
            200,
            "",
        ),
        (json!([{"op": "test", "path": "/data/x", "value": "1"}, {"op": "remove", "path": "/data/x"}]), 200, ""),
        (json!([{"op": "test", "path": "/data/k", "value": null}]), 422, "operation 0"),
        (json!([{"op": "test", "path": "/data/k", "value": "other"}]), 422, "operation 0"),
        (json!([{"op": "remove", "path": "/data/none"}]), 422, "operation 0"),
        (json!([{"op": "jump", "path": "/data/none"}]), 400, "not a valid JSON patch"),
        (json!({"op": "remove"}), 400, "not a valid JSON patch"),
        (json!([{"op": "replace", "path": "/metadata/name", "value": "b"}]), 400, "does not match the name on the URL"),
        (json!([{"op": "replace", "path": "/metadata/uid", "value": "b"}]), 409, "Precondition failed: UID"),
    ];
    for (patch, status, words) in table {
        let answer = api.json_patch(&configmaps("/a"), &patch).await;
        if status == 200 {
            assert_eq!(answer.expect(200)["metadata"]["uid"], uid);
        } else {
            answer.refused(status, words);
        }
    }
    assert_eq!(api.get(&configmaps("/a")).await.expect(200)["data"], json!({"k": "v"}));
}

#[tokio::test]
async fn a_patch_cannot_grow_without_bound() {
    let api = Harness::new().await;
    let mut big = configmap("a");
    big["data"]["k"] = json!("x".repeat(100_000));
    api.post(&configmaps(""), &big).await.expect(201);
    let copies: Vec<Value> =
        (0..40).map(|at| json!({"op": "copy", "from": "/data", "path": format!("/data/{at}")})).collect();
    api.json_patch(&configmaps("/a"), &json!(copies)).await.refused(413, "copies more than the limit");
    let many: Vec<Value> = (0..1_001).map(|_| json!({"op": "test", "path": "/data/none", "value": null})).collect();
    api.json_patch(&configmaps("/a"), &json!(many)).await.refused(413, "more than the limit of 1000");
}

#[tokio::test]
async fn patch_types_that_are_not_there_say_what_is() {
    let api = Harness::new().await;
    api.post(&configmaps(""), &configmap("a")).await.expect(201);
    for (media, words) in [
        ("application/strategic-merge-patch+json", "--type=merge"),
        ("application/apply-patch+yaml", "client-side apply"),
        ("application/json", "accepted media types"),
        ("text/plain", "accepted media types"),
    ] {
        api.call("PATCH", &configmaps("/a"), media, "{}").await.refused(415, words);
    }
    api.merge(&configmaps("/a"), &json!([1])).await.refused(400, "must be a JSON object");
}

#[tokio::test]
async fn merge_patches_change_metadata_and_respect_a_given_revision() {
    let api = Harness::new().await;
    let made = api.post(&configmaps(""), &configmap("a")).await.expect(201);
    let patch = json!({"metadata": {"labels": {"x": "y"}}, "data": {"k": null, "n": "1"}});
    let patched = api.merge(&configmaps("/a"), &patch).await.expect(200);
    assert_eq!((&patched["data"], &patched["metadata"]["labels"]), (&json!({"n": "1"}), &json!({"x": "y"})));
    let stale = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"z": "1"}});
    api.merge(&configmaps("/a"), &stale).await.refused(409, "the object has been modified");
}

#[tokio::test]
async fn blind_patches_that_race_all_take_effect() {
    let api = Harness::new().await;
    api.session("s").await;
    let patches = (0..20).map(|at| {
        let api = &api;
        async move {
            let patch = json!({"metadata": {"annotations": {format!("k{at}"): "v"}}});
            api.merge(&sessions("/s"), &patch).await.expect(200);
        }
    });
    futures::future::join_all(patches).await;
    let annotations = api.get(&sessions("/s")).await.expect(200)["metadata"]["annotations"].clone();
    assert_eq!(annotations.as_object().unwrap().len(), 20);
}
