//! Watch limits, withdrawn rights, and questions about the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Request;
use http_body_util::Full;
use mainstay_apiserver::token::{StoreSubjects, Subject, Subjects};
use mainstay_apiserver::{Caller, Identity, Limits};
use mainstay_store::{Key, Store, StoreError};
use serde_json::json;

use crate::harness::{Harness, PATIENCE, configmap, configmaps};

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

/// R51.
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

/// Says of a service account that it cannot be found out, as often as it is told to.
struct Unsure(Arc<dyn Store>, Arc<AtomicUsize>);

impl Subjects for Unsure {
    fn find(&self, key: Key) -> BoxFuture<'_, Result<Option<Subject>, StoreError>> {
        let unsure = self.1.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        Box::pin(async move {
            if unsure { Err(StoreError::Busy) } else { StoreSubjects::new(self.0.clone()).find(key).await }
        })
    }
}

#[tokio::test]
async fn a_watch_whose_right_cannot_be_checked_lives_on_for_a_few_checks_only() {
    let left = Arc::new(AtomicUsize::new(0));
    let limits = Limits { recheck: Duration::from_millis(20), ..Limits::default() };
    let count = left.clone();
    let api = Harness::with_subjects(limits, |store| Arc::new(Unsure(store, count))).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    api.post(accounts, &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let token = api.post(&format!("{accounts}/robot/token"), &json!({})).await.expect(201);
    let binding = json!({
        "metadata": {"name": "robot"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "all"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role =
        json!({"metadata": {"name": "all"}, "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    api.post(&format!("{rbac}/clusterroles"), &role).await.expect(201);
    api.post(&format!("{rbac}/clusterrolebindings"), &binding).await.expect(201);
    let watch = || {
        let bearer = format!("Bearer {}", token["status"]["token"].as_str().unwrap());
        let request = Request::builder().uri(configmaps("?watch=1")).header("authorization", bearer);
        api.server.handle(request.body(Full::<bytes::Bytes>::default()).unwrap(), Caller::Unknown)
    };
    let mut watch = crate::harness::Lines::of(watch().await);
    left.store(3, Ordering::SeqCst);
    let passed = async {
        while left.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
        api.post(&configmaps(""), &configmap("a")).await.expect(201);
    };
    let (event, ()) = tokio::time::timeout(PATIENCE, futures::future::join(watch.event(), passed)).await.unwrap();
    assert_eq!(event.1["metadata"]["name"], "a", "three failures are too few");
    left.store(usize::MAX, Ordering::SeqCst);
    assert!(watch.next().await.is_none());
    assert!(usize::MAX - left.load(Ordering::SeqCst) <= 5);
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
    // What was not asked for is absent, not null: typed clients read it.
    assert_eq!(issued["spec"], json!({"audiences": ["mainstay"], "expirationSeconds": 600}));
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

#[tokio::test]
async fn the_server_is_ready_when_all_that_it_waits_for_is() {
    let api = Harness::new().await;
    let ready = async || {
        let answer = api.get("/readyz?verbose").await;
        (answer.status.as_u16(), String::from_utf8_lossy(&answer.bytes).into_owned())
    };
    let (status, text) = ready().await;
    assert!(status == 200 && text.contains("[+]rights ok\n"), "{text}");
    let part = api.server.expect("controllers");
    let (status, text) = ready().await;
    assert!(status == 503 && text.contains("[-]controllers failed: it has not started\n"), "{text}");
    let left = Arc::new(AtomicUsize::new(2));
    let count = left.clone();
    part.runs(move || match count.load(Ordering::SeqCst) {
        0 => Ok(()),
        left => Err(format!("{left} lists to go")),
    });
    let (status, text) = ready().await;
    assert!(status == 503 && text.contains("[-]controllers failed: 2 lists to go\n"), "{text}");
    assert!(text.contains("[+]store ok\n") && text.ends_with("readyz check failed\n"), "{text}");
    assert_eq!(api.get("/livez").await.status, 200, "it lives nevertheless");
    left.store(0, Ordering::SeqCst);
    let (status, text) = ready().await;
    assert!(status == 200 && text.contains("[+]controllers ok\n"), "{text}");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_with_507_and_serves_reads() {
    let api = Harness::with_pages(150).await;
    let mut made = 0;
    let refused = loop {
        let big = json!({"metadata": {"name": format!("c{made}")}, "data": {"k": "x".repeat(10_000)}});
        let answer = api.post(&configmaps(""), &big).await;
        if answer.status != 201 {
            break answer;
        }
        made += 1;
    };
    assert_eq!(refused.headers["retry-after"], "5");
    assert_eq!(refused.json()["reason"], "InsufficientStorage");
    refused.refused(507, "the disk is full; the store is read-only until there is room");
    let listed = api.get(&configmaps("")).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), made);
    let ready = api.get("/readyz?verbose").await;
    assert_eq!(ready.status, 503);
    let text = String::from_utf8_lossy(&ready.bytes).into_owned();
    assert!(text.contains("[-]store failed: the disk is full") && text.contains("[+]ping ok"), "{text}");
    assert_eq!(api.get("/livez").await.status, 200);
}
