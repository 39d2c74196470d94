//! ResourceQuota at creation.

use serde_json::{Value, json};

use crate::harness::{Harness, configmap, configmaps, sessions};

async fn quota(api: &Harness, hard: Value) {
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    api.post("/api/v1/namespaces/default/resourcequotas", &quota).await.expect(201);
}

fn pod(name: &str, limits: &Value) -> Value {
    let container = json!({"name": "agent", "command": ["true"], "resources": {"limits": limits}});
    json!({"metadata": {"name": name}, "spec": {"containers": [container], "restartPolicy": "Never", "nodeName": "local"}})
}

#[tokio::test]
async fn counts_are_enforced_even_when_creates_race() {
    let api = Harness::new().await;
    quota(&api, json!({"count/configmaps": "3", "count/sessions.mainstay.dev": "0"})).await;
    let creates = (0..10).map(|at| {
        let api = &api;
        async move { api.post(&configmaps(""), &configmap(&format!("c{at}"))).await.status.as_u16() }
    });
    let mut codes = futures::future::join_all(creates).await;
    codes.sort_unstable();
    assert_eq!(codes, [201, 201, 201, 403, 403, 403, 403, 403, 403, 403]);
    let session = json!({"metadata": {"name": "s"}, "spec": {"command": ["true"]}});
    let refused = api.post(&sessions(""), &session).await;
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "QuotaExceeded");
    let what = "count/sessions.mainstay.dev";
    refused.refused(403, &format!("exceeded quota: q, requested: {what}=1, used: {what}=0, limited: {what}=0"));
}

#[tokio::test]
async fn pods_that_have_ended_use_nothing() {
    let api = Harness::new().await;
    quota(&api, json!({"pods": "2", "limits.cpu": "1500m", "limits.memory": "1Gi"})).await;
    let path = "/api/v1/namespaces/default/pods";
    api.post(path, &pod("a", &json!({"cpu": "1"}))).await.refused(403, "must specify limits.memory");
    api.post(path, &pod("a", &json!({"cpu": "1", "memory": "64Mi"}))).await.expect(201);
    let limits = &json!({"cpu": "600m", "memory": "64Mi"});
    api.post(path, &pod("b", limits))
        .await
        .refused(403, "requested: limits.cpu=600m, used: limits.cpu=1, limited: limits.cpu=1500m");
    api.merge(&format!("{path}/a/status"), &json!({"status": {"phase": "Failed"}})).await.expect(200);
    api.post(path, &pod("b", limits)).await.expect(201);
    api.post(path, &pod("c", limits)).await.expect(201);
    api.post(path, &pod("d", &json!({"cpu": "10m", "memory": "8Mi"})))
        .await
        .refused(403, "requested: pods=1, used: pods=2");
}

#[tokio::test]
async fn a_quota_reports_what_it_allows_and_what_is_used() {
    let api = Harness::new().await;
    let hard = json!({
        "count/sessions.mainstay.dev": "2", "count/configmaps": 5, "pods": "2", "limits.cpu": "1500m",
        "limits.memory": "1Gi",
    });
    quota(&api, hard.clone()).await;
    let path = "/api/v1/namespaces/default/resourcequotas/q";
    let none = json!({
        "count/sessions.mainstay.dev": "0", "count/configmaps": "0", "pods": "0", "limits.cpu": "0", "limits.memory": "0",
    });
    let shown = api.until(path, |quota| !quota["status"].is_null()).await;
    assert_eq!(shown["status"]["used"], none);
    assert_eq!(shown["status"]["hard"]["limits.memory"], "1Gi");

    let mut watch = api.lines("/api/v1/namespaces/default/resourcequotas?watch=1").await;
    assert_eq!(watch.event().await.0, "ADDED");
    api.session("s").await;
    api.post(&configmaps(""), &configmap("a")).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    api.post(pods, &pod("a", &json!({"cpu": "600m", "memory": "512Mi"}))).await.expect(201);
    let some = json!({
        "count/sessions.mainstay.dev": "1", "count/configmaps": "1", "pods": "1", "limits.cpu": "600m",
        "limits.memory": "512Mi",
    });
    loop {
        let (kind, seen) = watch.event().await;
        assert_eq!(kind, "MODIFIED");
        if seen["status"]["used"] == some {
            break;
        }
    }
    api.merge(&format!("{pods}/a/status"), &json!({"status": {"phase": "Succeeded"}})).await.expect(200);
    api.until(path, |quota| quota["status"]["used"]["pods"] == "0" && quota["status"]["used"]["limits.cpu"] == "0")
        .await;
    // What somebody else writes there does not stay.
    api.merge(&format!("{path}/status"), &json!({"status": {"used": {"pods": "7"}}})).await.expect(200);
    api.until(path, |quota| quota["status"]["used"]["pods"] == "0").await;
    assert_eq!(api.get(path).await.expect(200)["metadata"]["generation"], 1);
}
