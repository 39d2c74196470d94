//! Watch limits, withdrawn rights, and questions about the caller.

use std::time::Duration;

use http::Request;
use http_body_util::Full;
use mainstay_apiserver::{Identity, Limits};
use serde_json::json;

use crate::harness::{Harness, configmaps};

#[tokio::test]
async fn watches_are_counted_for_each_and_for_all() {
    let limits = Limits { watches: 3, watches_per_identity: 2, ..Limits::default() };
    let api = Harness::with(limits).await;
    let first = api.lines(&configmaps("?watch=1")).await;
    let _second = api.lines(&configmaps("?watch=1")).await;
    let refused = api.get(&configmaps("?watch=1")).await;
    assert_eq!(refused.headers["retry-after"], "1");
    refused.refused(429, "too many open watches");
    drop(first);
    let _third = api.lines(&configmaps("?watch=1")).await;
}

#[tokio::test]
async fn a_right_that_is_withdrawn_ends_the_watch() {
    let api = Harness::with(Limits { recheck: Duration::from_millis(50), ..Limits::default() }).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"verbs": ["watch"], "apiGroups": [""], "resources": ["configmaps"]}]});
    api.post(&format!("{rbac}/roles"), &role).await.expect(201);
    let binding = json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}],
    });
    api.post(&format!("{rbac}/rolebindings"), &binding).await.expect(201);
    let ann = || Identity::new("ann", ["people"]);
    api.call_as(ann(), "GET", &configmaps(""), "", "").await.refused(403, "cannot list resource \"configmaps\"");
    let request = Request::builder().uri(configmaps("?watch=1")).body(Full::default()).unwrap();
    let mut watch = crate::harness::Lines::of(api.send(ann(), request).await);
    api.delete(&format!("{rbac}/rolebindings/reader")).await.expect(200);
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn callers_may_ask_who_they_are_and_what_they_may() {
    let api = Harness::new().await;
    let who = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.expect(201);
    assert_eq!(who["status"]["userInfo"]["username"], "admin");
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let ask = json!({"spec": {"resourceAttributes": {"verb": "delete", "resource": "pods", "namespace": "default"}}});
    assert_eq!(api.post(path, &ask).await.expect(201)["status"]["allowed"], true);
    api.post(path, &json!({"spec": {}})).await.refused(400, "exactly one of");
    let rules = json!({"spec": {"namespace": "default"}});
    let rules = api.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &rules).await.expect(201);
    assert_eq!(rules["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    api.call("POST", path, "application/vnd.kubernetes.protobuf", "k8s\0").await.refused(415, "protobuf");
    api.get(path).await.refused(405, "does not allow this method");
}

#[tokio::test]
async fn tokens_are_asked_for_and_used() {
    let api = Harness::new().await;
    let account = "/api/v1/namespaces/default/serviceaccounts";
    api.post(account, &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let path = format!("{account}/robot/token");
    let issued = api.post(&path, &json!({"spec": {"expirationSeconds": 600}})).await.expect(201);
    assert!(issued["status"]["token"].as_str().unwrap().split('.').count() == 3);
    api.post(&path, &json!({"spec": {"expirationSeconds": 5}})).await.refused(422, "spec.expirationSeconds");
    api.post(&format!("{account}/nobody/token"), &json!({})).await.refused(404, "not found");
    api.get(&path).await.refused(405, "does not allow this method");
}

#[tokio::test]
async fn a_credential_is_revealed_to_a_node_only() {
    let api = Harness::new().await;
    let path = "/apis/mainstay.dev/v1alpha1/namespaces/default/credentials";
    let credential = json!({"metadata": {"name": "c"}, "spec": {"provider": "github", "token": "hunter2-hunter2"}});
    api.post(path, &credential).await.expect(201);
    api.get(&format!("{path}/c/reveal")).await.refused(403, "");
}
