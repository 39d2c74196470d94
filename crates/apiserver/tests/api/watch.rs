//! Watches: what is there, what changes, resumption, selectors, ends.

use serde_json::json;

use crate::harness::{Harness, configmap, configmaps};

#[tokio::test]
async fn a_watch_shows_what_is_there_and_every_change() {
    let api = Harness::new().await;
    api.post(&configmaps(""), &configmap("a")).await.expect(201);
    let mut watch = api.lines(&configmaps("?watch=1")).await;
    let (kind, object) = watch.event().await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("a")));
    let changed = api.merge(&configmaps("/a"), &json!({"data": {"k": "w"}})).await.expect(200);
    assert_eq!(watch.event().await, ("MODIFIED".to_owned(), changed.clone()));
    api.delete(&configmaps("/a")).await.expect(200);
    let (kind, object) = watch.event().await;
    let revision =
        |object: &serde_json::Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(kind, "DELETED");
    assert!(revision(&object) > revision(&changed), "a deletion has a revision of its own");
}

#[tokio::test]
async fn a_watch_resumes_strictly_after_a_revision() {
    let api = Harness::new().await;
    let first = api.post(&configmaps(""), &configmap("a")).await.expect(201);
    api.post(&configmaps(""), &configmap("b")).await.expect(201);
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api.lines(&configmaps(&format!("?watch=true&resourceVersion={revision}"))).await;
    assert_eq!(watch.event().await.1["metadata"]["name"], "b");
    // A revision that was never given out: the client must list again.
    let mut ahead = api.lines(&configmaps("?watch=true&resourceVersion=999999")).await;
    let (kind, status) = ahead.event().await;
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
    assert!(ahead.next().await.is_none());
}

#[tokio::test]
async fn initial_events_end_with_an_annotated_bookmark() {
    let api = Harness::new().await;
    api.post(&configmaps(""), &configmap("a")).await.expect(201);
    let query = "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0";
    let mut watch = api.lines(&configmaps(query)).await;
    assert_eq!(watch.event().await.0, "ADDED");
    let (kind, bookmark) = watch.event().await;
    assert_eq!((kind.as_str(), &bookmark["kind"]), ("BOOKMARK", &json!("ConfigMap")));
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    api.get(&configmaps("?watch=true&sendInitialEvents=true")).await.refused(422, "resourceVersionMatch");
}

#[tokio::test]
async fn selectors_turn_changes_into_coming_and_going() {
    let api = Harness::new().await;
    let mut watch = api.lines(&configmaps("?watch=1&labelSelector=x%3Dy")).await;
    api.post(&configmaps(""), &configmap("a")).await.expect(201);
    let label = |value: serde_json::Value| json!({"metadata": {"labels": {"x": value}}});
    api.merge(&configmaps("/a"), &label(json!("y"))).await.expect(200);
    api.merge(&configmaps("/a"), &json!({"data": {"k": "2"}})).await.expect(200);
    api.merge(&configmaps("/a"), &label(json!("z"))).await.expect(200);
    api.delete(&configmaps("/a")).await.expect(200);
    api.post(&configmaps(""), &json!({"metadata": {"name": "last", "labels": {"x": "y"}}})).await.expect(201);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (kind, object) = watch.event().await;
        seen.push((kind, object["metadata"]["name"].as_str().unwrap().to_owned()));
    }
    let want = [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "last")];
    assert_eq!(seen, want.map(|(kind, name)| (kind.to_owned(), name.to_owned())));
}

#[tokio::test]
async fn a_watch_ends_at_its_time_after_a_bookmark() {
    let api = Harness::new().await;
    let mut watch = api.lines(&configmaps("?watch=1&timeoutSeconds=1&allowWatchBookmarks=true")).await;
    let (kind, bookmark) = watch.event().await;
    assert_eq!(kind, "BOOKMARK");
    assert!(bookmark["metadata"]["resourceVersion"].is_string());
    while let Some(event) = watch.next().await {
        assert_eq!(event["type"], "BOOKMARK");
    }
}
