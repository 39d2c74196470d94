//! Lists: pages of one snapshot, selectors, forms.

use serde_json::{Value, json};

use crate::harness::{Harness, configmap, configmaps};

async fn fill(api: &Harness, count: usize) {
    for at in 0..count {
        let mut object = configmap(&format!("c{at:03}"));
        object["metadata"]["labels"] = json!({"parity": if at % 2 == 0 { "even" } else { "odd" }});
        api.post(&configmaps(""), &object).await.expect(201);
    }
}

fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().unwrap().iter().map(|one| one["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn pages(api: &Harness, query: &str) -> (Vec<String>, usize) {
    let (mut all, mut count, mut next) = (Vec::new(), 0, String::new());
    loop {
        let list = api.get(&configmaps(&format!("?{query}{next}"))).await.expect(200);
        all.extend(names(&list));
        count += 1;
        match list["metadata"]["continue"].as_str() {
            Some(token) if !token.is_empty() => next = format!("&continue={token}"),
            _ => return (all, count),
        }
    }
}

/// R9.
#[tokio::test]
async fn pages_show_one_snapshot() {
    let api = Harness::new().await;
    fill(&api, 10).await;
    let first = api.get(&configmaps("?limit=4")).await.expect(200);
    assert_eq!((names(&first).len(), &first["metadata"]["remainingItemCount"]), (4, &json!(6)));
    // What happens between two pages belongs to a later list.
    api.delete(&configmaps("/c007")).await.expect(200);
    api.post(&configmaps(""), &configmap("c004x")).await.expect(201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = api.get(&configmaps(&format!("?limit=100&continue={token}"))).await.expect(200);
    assert_eq!(names(&second), ["c004", "c005", "c006", "c007", "c008", "c009"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(pages(&api, "limit=3").await.0.len(), 10);
    assert_eq!(pages(&api, "limit=1").await.1, 10);
}

#[tokio::test]
async fn a_page_of_a_snapshot_that_was_compacted_is_expired() {
    let api = Harness::new().await;
    fill(&api, 3).await;
    let first = api.get(&configmaps("?limit=1")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let next = configmaps(&format!("?limit=1&continue={token}"));
    assert_eq!(names(&api.get(&next).await.expect(200)), ["c001"]);
    api.delete(&configmaps("/c002")).await.expect(200);
    api.store.compact(api.store.revision()).await.unwrap();
    let expired = api.get(&next).await;
    assert_eq!(expired.json()["reason"], "Expired");
    expired.refused(410, "continue");
    // As everywhere, the way on is to list again.
    assert_eq!(pages(&api, "limit=1").await.0, ["c000", "c001"]);
}

#[tokio::test]
async fn selectors_and_pages_go_together() {
    let api = Harness::new().await;
    fill(&api, 10).await;
    let (odd, count) = pages(&api, "labelSelector=parity%3Dodd&limit=2").await;
    assert_eq!((odd, count), (["c001", "c003", "c005", "c007", "c009"].map(str::to_owned).to_vec(), 3));
    assert_eq!(pages(&api, "labelSelector=parity+in+(even,odd)").await.0.len(), 10);
    assert_eq!(pages(&api, "fieldSelector=metadata.name%3Dc003").await.0, ["c003"]);
    assert!(pages(&api, "fieldSelector=metadata.name%3Dc003,metadata.namespace%3Dother").await.0.is_empty());
    let all = api.get("/api/v1/configmaps?fieldSelector=metadata.name%3Dc003").await.expect(200);
    assert_eq!(names(&all), ["c003"]);
}

#[tokio::test]
async fn wrong_parameters_are_refused() {
    let api = Harness::new().await;
    fill(&api, 1).await;
    for (query, status, words) in [
        ("limit=x", 400, "limit"),
        ("limit=-1", 400, "limit"),
        ("continue=%21", 400, "continue key is not valid"),
        ("continue=eyJyIjo5fQ", 400, "continue key is not valid"),
        ("labelSelector=%3D%3D", 400, ""),
        ("fieldSelector=spec.nothing%3Dx", 400, "field label not supported"),
        ("resourceVersion=abc", 400, "resourceVersion"),
        ("resourceVersion=99999", 504, "Too large resource version: 99999, current: "),
        ("resourceVersionMatch=Exact", 400, "Exact"),
        ("resourceVersionMatch=Perhaps", 400, "unsupported value"),
        ("resourceVersionMatch=NotOlderThan", 400, "is forbidden unless resourceVersion is provided"),
        ("continue=eyJyIjo5fQ&resourceVersion=1", 400, "specifying resource version is not allowed"),
        ("continue=eyJyIjo5fQ&resourceVersionMatch=Exact", 400, "is forbidden when continue is provided"),
        ("sendInitialEvents=true&resourceVersion=0", 422, "is forbidden for list"),
        ("watch=perhaps", 400, "watch"),
        ("includeObject=Perhaps", 400, "includeObject"),
    ] {
        api.get(&configmaps(&format!("?{query}"))).await.refused(status, words);
    }
}

#[tokio::test]
async fn exact_revisions_are_read_back() {
    let api = Harness::new().await;
    fill(&api, 2).await;
    let before = api.get(&configmaps("")).await.expect(200);
    fill_more(&api).await;
    let revision = before["metadata"]["resourceVersion"].as_str().unwrap();
    let then =
        api.get(&configmaps(&format!("?resourceVersion={revision}&resourceVersionMatch=Exact"))).await.expect(200);
    assert_eq!(then, before);
    let now = api
        .get(&configmaps(&format!("?resourceVersion={revision}&resourceVersionMatch=NotOlderThan")))
        .await
        .expect(200);
    assert_eq!(names(&now).len(), 3);
}

async fn fill_more(api: &Harness) {
    api.post(&configmaps(""), &configmap("later")).await.expect(201);
}

#[tokio::test]
async fn tables_and_metadata_are_answered_to_those_who_ask() {
    let api = Harness::new().await;
    fill(&api, 2).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let shown = api.get_as(&configmaps(""), table).await.expect(200);
    assert_eq!((&shown["kind"], shown["rows"].as_array().unwrap().len()), (&json!("Table"), 2));
    assert_eq!(shown["rows"][0]["cells"][0], "c000");
    assert_eq!(api.get_as(&configmaps("/c000"), table).await.expect(200)["rows"][0]["cells"][0], "c000");
    let slim = api.get_as(&configmaps(""), list).await.expect(200);
    assert_eq!((&slim["kind"], &slim["items"][0]["data"]), (&json!("PartialObjectMetadataList"), &Value::Null));
    assert_eq!(api.get_as(&configmaps("/c000"), metadata).await.expect(200)["kind"], "PartialObjectMetadata");
    api.get_as(&configmaps(""), "text/html").await.refused(406, "media types");

    let mut watch = api.lines_as(&configmaps("?watch=1"), table).await;
    let (first, second) = (watch.event().await.1, watch.event().await.1);
    assert!(first["columnDefinitions"].is_array() && second["columnDefinitions"].is_null());
    let mut watch = api.lines_as(&configmaps("?watch=1"), metadata).await;
    assert_eq!(watch.event().await.1["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let api = Harness::new().await;
    for path in ["/api", "/apis", "/api/v1", "/apis/mainstay.dev", "/apis/mainstay.dev/v1alpha1", "/openapi/v3"] {
        let answer = api.get(path).await;
        let etag = answer.headers["etag"].clone();
        answer.expect(200);
        let again = api.get_with(path, "if-none-match", etag.to_str().unwrap()).await;
        assert_eq!(again.status, 304, "{path}");
    }
    api.get("/openapi/v2").await.refused(404, "could not find");
}
