//! What makes no sense: no crash, no hang, no half write, and an answer that says what is wrong.

use serde_json::json;

use crate::harness::{Harness, configmap, configmaps, sessions};

#[tokio::test]
async fn bodies_that_are_no_objects_are_refused() {
    let api = Harness::new().await;
    let deep = format!("{{\"data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    // (media type, body, status, words)
    let table: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("application/json", b"".to_vec(), 400, "not valid JSON"),
        ("application/json", b"{".to_vec(), 400, "not valid JSON"),
        ("application/json", b"[]".to_vec(), 400, "must be a JSON object"),
        ("application/json", b"null".to_vec(), 400, "must be a JSON object"),
        ("application/json", b"{\"a\":\"\xff\xfe\"}".to_vec(), 400, "not valid JSON"),
        ("application/json", br#"{"metadata":[]}"#.to_vec(), 400, "metadata must be an object"),
        ("application/json", br#"{"metadata":{"name":"a"},"data":{"k":1}}"#.to_vec(), 422, "data.k: Invalid value"),
        ("application/json", br#"{"metadata":{"name":5}}"#.to_vec(), 422, "metadata.name"),
        ("application/json", deep.into_bytes(), 400, "nested deeper than 64"),
        ("application/json", vec![b' '; 10 << 20], 413, "larger than the limit"),
        ("application/yaml", b"a: [".to_vec(), 400, "not valid YAML"),
        ("application/vnd.kubernetes.protobuf", b"k8s\0".to_vec(), 415, "protobuf bodies are not supported"),
        ("text/html", b"<html>".to_vec(), 415, "accepted media types"),
    ];
    for (media, body, status, words) in table {
        api.call("POST", &configmaps(""), media, body).await.refused(status, words);
    }
    let list = api.get(&configmaps("")).await.expect(200);
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn unknown_and_duplicate_fields_follow_field_validation() {
    let api = Harness::new().await;
    let body = r#"{"metadata":{"name":"s"},"spec":{"command":["true"],"bogus":1,"prompt":"a","prompt":"b"}}"#;
    let path = sessions("?fieldValidation=Strict");
    api.call("POST", &path, "application/json", body).await.refused(400, "duplicate field \"spec.prompt\"");
    let unknown = r#"{"metadata":{"name":"s"},"spec":{"command":["true"],"bogus":1}}"#;
    api.call("POST", &path, "application/json", unknown).await.refused(400, "unknown field \"spec.bogus\"");
    let warned = api.call("POST", &sessions(""), "application/json", body).await;
    let warnings: Vec<_> =
        warned.headers.get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
    assert_eq!(warnings, [r#"299 - "duplicate field \"spec.prompt\"""#, r#"299 - "unknown field \"spec.bogus\"""#]);
    let made = warned.expect(201);
    assert_eq!((&made["spec"]["bogus"], &made["spec"]["prompt"]), (&json!(null), &json!("b")));
    let ignored = api.call("PUT", &sessions("/s?fieldValidation=Ignore"), "application/json", made.to_string()).await;
    assert!(ignored.headers.get("warning").is_none());
    api.post(&sessions("?fieldValidation=Lax"), &json!({})).await.refused(400, "fieldValidation");
}

#[tokio::test]
async fn yaml_is_taken_where_json_is() {
    let api = Harness::new().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  a: b\n";
    let made = api.call("POST", &configmaps(""), "application/yaml", yaml).await.expect(201);
    assert_eq!(made["data"]["a"], "b");
}

#[tokio::test]
async fn oversized_urls_and_parameters_are_refused() {
    let api = Harness::new().await;
    api.get(&format!("/api/v1/namespaces/{}", "x".repeat(3_000))).await.refused(414, "too long");
    api.get(&configmaps(&format!("?labelSelector={}", "x".repeat(20_000)))).await.refused(414, "longer than");
    api.get(&configmaps(&format!("?{}", "a=b&".repeat(100)))).await.refused(400, "more than 64 parameters");
}

#[tokio::test]
async fn an_object_that_the_store_would_not_take_is_refused() {
    let api = Harness::new().await;
    let mut big = configmap("big");
    big["data"]["k"] = json!("x".repeat(2 << 20));
    api.post(&configmaps(""), &big).await.refused(413, "more than the limit");
    api.get(&configmaps("/big")).await.refused(404, "not found");
}
