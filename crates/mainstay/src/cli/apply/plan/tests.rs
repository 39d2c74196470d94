use super::*;

fn project(spec: impl Into<Value>) -> Value {
    json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "Project", "metadata": {"name": "p"}, "spec": spec.into()})
}

/// The object as a server would hold it after `manifest` was applied: with defaults and a revision.
fn live(manifest: &Value) -> Value {
    let mut object = for_create(manifest);
    object["metadata"]["resourceVersion"] = "7".into();
    object["metadata"]["uid"] = "u".into();
    object["spec"]["byDefault"] = json!({"x": 1});
    object["status"] = json!({"phase": "Active"});
    object
}

#[test]
fn what_was_applied_and_not_changed_is_unchanged() {
    let manifest =
        project(json!({"description": "d", "members": [{"name": "a", "role": "owner"}], "quota": {"cpu": "2"}}));
    assert_eq!(patch(&manifest, &live(&manifest)), None);
}

#[test]
fn r6_only_fields_that_differ_are_sent() {
    let before = project(json!({"description": "d", "prompt": "p", "quota": {"cpu": "2", "memory": "1Gi"}}));
    let after = project(json!({"description": "d", "prompt": "q", "quota": {"cpu": "3", "memory": "1Gi"}}));
    let patch = patch(&after, &live(&before)).unwrap();
    assert_eq!(patch["spec"], json!({"prompt": "q", "quota": {"cpu": "3"}}));
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
}

#[test]
fn a_field_taken_out_is_cleared_and_a_strangers_field_stays() {
    let mut before = project(json!({"description": "d", "quota": {"cpu": "2"}}));
    before["metadata"]["labels"] = json!({"a": "1", "b": "2"});
    let mut held = live(&before);
    held["metadata"]["labels"]["stranger"] = "s".into();
    held["spec"]["prompt"] = "by hand".into();
    let mut after = project(json!({}));
    after["metadata"]["labels"] = json!({"a": "1"});
    let patch = patch(&after, &held).unwrap();
    assert_eq!(patch["spec"], json!({"description": null, "quota": null}));
    assert_eq!(patch["metadata"]["labels"], json!({"b": null}));
}

#[test]
fn lists_are_replaced() {
    let before = project(json!({"members": [{"name": "a"}, {"name": "b"}]}));
    let after = project(json!({"members": [{"name": "b"}]}));
    assert_eq!(patch(&after, &live(&before)).unwrap()["spec"], json!({"members": [{"name": "b"}]}));
}

#[test]
fn an_object_of_somebody_elses_making_is_adopted() {
    let manifest = project(json!({"description": "d"}));
    let mut held = live(&manifest);
    held["metadata"]["annotations"] = json!({});
    let patch = patch(&manifest, &held).unwrap();
    assert!(patch.get("spec").is_none());
    assert!(patch["metadata"]["annotations"][LAST_APPLIED].is_string());
}

#[test]
fn no_secret_is_remembered_and_a_token_is_always_sent() {
    let credential = json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "Credential", "metadata": {"name": "c"},
        "spec": {"provider": "github", "token": "s3cret"}});
    let sent = for_create(&credential);
    assert_eq!(sent["spec"]["token"], "s3cret");
    assert!(!sent["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap().contains("s3cret"));
    // The server never gives the token back: the patch has it each time, and the revision tells whether it was new.
    let mut held = live(&credential);
    held["spec"].as_object_mut().unwrap().remove("token");
    assert_eq!(patch(&credential, &held).unwrap()["spec"], json!({"token": "s3cret"}));
    // Taken out of the manifest, the stored one is kept.
    let mut without = credential.clone();
    without["spec"].as_object_mut().unwrap().remove("token");
    assert_eq!(patch(&without, &held), None);
}

#[test]
fn a_secrets_texts_become_data_and_its_record_has_no_values() {
    let secret = |texts: Value| {
        desired(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "uid": "x", "resourceVersion": "1"},
            "stringData": texts, "status": {}}),
        )
    };
    let first = secret(json!({"a": "hello", "b": "x"}));
    assert_eq!(first["data"], json!({"a": "aGVsbG8=", "b": "eA=="}));
    assert_eq!(first["metadata"], json!({"name": "s"}));
    let held = live(&first);
    assert!(!held["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap().contains("aGVsbG8"));
    assert_eq!(patch(&first, &held), None);
    assert_eq!(patch(&secret(json!({"a": "hello"})), &held).unwrap()["data"], json!({"b": null}));
}
