//! Keys over the API: what is told of them, who may rotate them, and what becomes of what they sealed and signed.

use std::time::Duration;

use mainstay_apiserver::Identity;
use mainstay_store::{Key, Object};
use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const CREDENTIALS: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/credentials";
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

async fn version_of(api: &Harness, key: &str) -> Vec<(u64, String)> {
    let told = api.get("/keys").await.expect(200);
    let versions = told["keys"].as_array().unwrap().iter().filter(|version| version["name"] == key);
    versions.map(|one| (one["version"].as_u64().unwrap(), one["state"].as_str().unwrap().to_owned())).collect()
}

async fn stored(api: &Harness, resource: &str, name: &str) -> std::sync::Arc<Object> {
    api.store.get(&Key::new(resource, "default", name)).await.unwrap().unwrap()
}

/// The key ids of all envelopes in a stored object.
fn sealed_under(object: &Object) -> Vec<String> {
    let text = std::str::from_utf8(&object.body).unwrap();
    text.split("mainstay:v1:").skip(1).map(|rest| rest[..8].to_owned()).collect()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test]
async fn what_an_old_data_key_sealed_is_read_and_sealed_anew_at_its_revision() {
    let api = Harness::new().await;
    let metadata = json!({"name": "s", "annotations": {APPLIED: "hunter3"}});
    let secret = json!({"metadata": metadata, "stringData": {"one": "hunter2", "two": "x"}});
    let made = api.post(SECRETS, &secret).await.expect(201);
    api.post(CREDENTIALS, &json!({"metadata": {"name": "c"}, "spec": {"provider": "github", "token": "hunter4"}}))
        .await
        .expect(201);
    let old = sealed_under(&*stored(&api, "/secrets", "s").await);
    assert_eq!(old.len(), 3);
    assert_eq!(version_of(&api, "data").await, [(1, "used".to_owned())]);
    assert_eq!(api.post("/keys/data/rotate", &json!({})).await.expect(200), json!({"name": "data", "version": 2}));
    let both = [(2, "used".to_owned()), (1, "accepted".to_owned())];
    assert_eq!(version_of(&api, "data").await, both);
    assert_eq!(api.get(&format!("{SECRETS}/s")).await.expect(200)["data"], made["data"], "read under the old key");
    api.post(SECRETS, &json!({"metadata": {"name": "new"}, "stringData": {"k": "v"}})).await.expect(201);
    let new = sealed_under(&*stored(&api, "/secrets", "new").await);
    assert_ne!(new[0], old[0]);

    // The next pass of the duty; a new server begins with one.
    let after = api.restarted();
    for (resource, name) in [("/secrets", "s"), ("mainstay.dev/credentials", "c")] {
        until(name, async || sealed_under(&*stored(&after, resource, name).await).iter().all(|id| *id == new[0])).await;
    }
    let mut read = after.get(&format!("{SECRETS}/s")).await.expect(200);
    let (was, now) = (made["metadata"]["resourceVersion"].clone(), read["metadata"]["resourceVersion"].take());
    assert_ne!(was, now, "it is a write");
    let mut made = made;
    made["metadata"]["resourceVersion"].take();
    assert_eq!(read, made, "of nothing but the seal");
    assert_eq!(version_of(&after, "data").await, both, "what was before can still be read: the old key stays");
    after.post("/keys/data/retire?version=1", &Value::Null).await.refused(409, "retired by itself");
}

#[tokio::test]
async fn only_administrators_see_and_change_keys_and_no_answer_holds_one() {
    let api = Harness::new().await;
    for name in ["ca", "tokens", "data", "admin"] {
        api.post(&format!("/keys/{name}/rotate"), &json!({})).await.expect(200);
    }
    let told = api.get("/keys").await;
    let text = String::from_utf8(told.bytes.to_vec()).unwrap();
    let document = told.json();
    let fields: Vec<&str> = document["keys"][0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["created", "name", "state", "version"]);
    assert!(text.len() < 1_000 && !text.contains("mainstay_") && !text.contains("PRIVATE"), "{text}");
    let somebody = || Identity::controller("session-controller");
    for (method, path) in [("GET", "/keys"), ("POST", "/keys/data/rotate"), ("POST", "/keys/rewrap")] {
        api.call_as(somebody(), method, path, "", "").await.refused(403, "cannot");
    }
    assert_eq!(version_of(&api, "data").await.len(), 2);
    for (method, path, code) in [
        ("GET", "/keys/data/rotate", 405),
        ("PUT", "/keys", 405),
        ("POST", "/keys", 405),
        ("POST", "/keys/data", 404),
        ("POST", "/keys/other/rotate", 404),
        ("POST", "/keys/data/open", 404),
        ("GET", "/keys/data/rotate/x", 404),
        ("POST", "/keys/ca/retire", 400),
        ("POST", "/keys/ca/retire?version=x", 400),
        ("POST", "/keys/ca/retire?version=7", 404),
        ("POST", "/keys/ca/retire?version=2", 409),
    ] {
        assert_eq!(api.call(method, path, "", "").await.status.as_u16(), code, "{method} {path}");
    }
    api.post("/keys/ca/retire?version=1", &json!({})).await.expect(200);
    assert_eq!(version_of(&api, "ca").await, [(2, "used".to_owned())]);
    tokio::time::timeout(Duration::from_secs(5), api.tasks.shutdown(Duration::from_secs(5))).await.unwrap().unwrap();
}
