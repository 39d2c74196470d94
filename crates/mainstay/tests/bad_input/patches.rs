//! Patches and updates that go for what is not theirs.

use super::*;

const OPERATIONS: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";

/// Two objects of the kinds that have something to protect.
fn bothered() -> Bothered {
    let secret = json!({"metadata": {"name": "sec"}, "type": "Opaque", "stringData": {"a": "hush"}});
    let credential = json!({"metadata": {"name": "cred"}, "spec": {"provider": "x", "token": "hush"}});
    let fixed = json!({"metadata": {"name": "fixed"}, "data": {"a": "1"}, "immutable": true});
    Bothered::with(&[(CONFIGMAPS, configmap("c")), (CONFIGMAPS, fixed), (SECRETS, secret), (CREDENTIALS, credential)])
}

#[test]
fn json_patches_that_make_no_sense_change_nothing() {
    let bothered = bothered();
    let one = |operation: &str| format!("[{{{operation}}}]");
    let invalid = "operation 0 of the JSON patch: path is invalid";
    let many = format!("[{}]", vec![r#"{"op":"add","path":"/data/z","value":"x"}"#; 1_001].join(","));
    let copies = (0..40).map(|n| format!(r#"{{"op":"copy","from":"/data","path":"/data/d{n}"}}"#)).collect::<Vec<_>>();
    let double = format!(r#"[{{"op":"add","path":"/data/a","value":"{}"}},{}]"#, "x".repeat(1_000), copies.join(","));
    let table = [
        ("{}".to_owned(), 400, "not a valid JSON patch: invalid type: map"),
        ("[{}]".to_owned(), 400, "missing field `op`"),
        (one(r#""op":"bogus","path":"/a""#), 400, "unknown variant `bogus`"),
        (one(r#""op":"add","path":"/data/x""#), 400, "missing field `value`"),
        (one(r#""op":"add","path":"data/x","value":"1""#), 400, "does not start with a slash"),
        (one(r#""op":"add","path":"/data/a~2","value":"1""#), 400, "malformed"),
        (one(r#""op":"add","path":"/nope/x","value":1"#), 422, invalid),
        (one(r#""op":"remove","path":"/nope""#), 422, invalid),
        (one(r#""op":"remove","path":"""#), 422, invalid),
        (one(r#""op":"replace","path":"/nope","value":1"#), 422, invalid),
        (one(r#""op":"test","path":"/data/a","value":"2""#), 422, "value did not match"),
        (one(r#""op":"move","from":"/data","path":"/data/x""#), 422, "cannot move the value inside itself"),
        (one(r#""op":"copy","from":"/nope","path":"/data/x""#), 422, "\"from\" path is invalid"),
        (one(r#""op":"add","path":"/metadata/finalizers/-","value":"a/b""#), 422, invalid),
        (one(r#""op":"add","path":"/data/x","value":{"deep":1}"#), 422, "data.x: Invalid value: \"object\""),
        (one(r#""op":"replace","path":"","value":null"#), 400, "must be a JSON object"),
        (one(r#""op":"replace","path":"/metadata","value":5"#), 400, "metadata must be an object"),
        (one(r#""op":"replace","path":"/kind","value":"Secret""#), 400, "does not match the expected kind"),
        (one(r#""op":"replace","path":"/metadata/name","value":"x""#), 400, "does not match the name on the URL"),
        (one(r#""op":"replace","path":"/metadata/namespace","value":"x""#), 400, "does not match the namespace"),
        (one(r#""op":"replace","path":"/metadata/uid","value":"x""#), 409, "UID in precondition: x"),
        (
            one(r#""op":"replace","path":"/metadata/uid","value":5"#),
            422,
            "metadata.uid: Invalid value: must be a string",
        ),
        (one(r#""op":"replace","path":"/metadata/resourceVersion","value":"1""#), 409, "has been modified"),
        (one(r#""op":"replace","path":"/metadata/resourceVersion","value":1"#), 422, "metadata.resourceVersion"),
        (many, 413, "1001 operations, more than the limit of 1000"),
        (double, 413, "copies more than the limit allows"),
        ("[".repeat(100_000), 400, "nested deeper than 64 levels"),
    ];
    for (patch, code, words) in table {
        let what = &patch[..patch.len().min(120)];
        bothered.wire.call("PATCH", &format!("{CONFIGMAPS}/c"), OPERATIONS, &patch).refused(code, words, what);
    }
    let deep = format!(
        "[{}]",
        (0..80).map(|_| r#"{"op":"move","from":"/data","path":"/data2"},{"op":"add","path":"/data","value":{}},{"op":"move","from":"/data2","path":"/data/a"}"#)
            .collect::<Vec<_>>()
            .join(",")
    );
    bothered.wire.call("PATCH", &format!("{CONFIGMAPS}/c"), OPERATIONS, deep).refused(400, "nested too deeply", "deep");
    // What cannot be seen can be neither tested nor copied.
    for operation in [
        r#""op":"test","path":"/spec/token","value":"hush""#,
        r#""op":"copy","from":"/spec/token","path":"/spec/description""#,
        r#""op":"move","from":"/spec/token","path":"/spec/description""#,
    ] {
        let answer = bothered.wire.call("PATCH", &format!("{CREDENTIALS}/cred"), OPERATIONS, one(operation));
        answer.refused(422, "path is invalid", operation);
    }
    bothered.stays_well();
}

#[test]
fn merge_patches_and_updates_do_not_touch_what_is_fixed() {
    let bothered = bothered();
    let (c, fixed) = (format!("{CONFIGMAPS}/c"), format!("{CONFIGMAPS}/fixed"));
    let (secret, credential) = (format!("{SECRETS}/sec"), format!("{CREDENTIALS}/cred"));
    let table = [
        ("PATCH", &c, "[]", 400, "a merge patch must be a JSON object"),
        ("PATCH", &c, r#"{"kind":"Secret"}"#, 400, "does not match the expected kind"),
        ("PATCH", &c, r#"{"metadata":{"name":"x"}}"#, 400, "does not match the name on the URL"),
        ("PATCH", &c, r#"{"metadata":{"namespace":"x"}}"#, 400, "does not match the namespace"),
        ("PATCH", &c, r#"{"metadata":{"uid":"x"}}"#, 409, "UID in precondition"),
        ("PATCH", &c, r#"{"metadata":{"resourceVersion":"1"}}"#, 409, "has been modified"),
        ("PATCH", &c, r#"{"metadata":{"resourceVersion":"abc"}}"#, 400, "is not a resourceVersion of this server"),
        ("PATCH", &c, r#"{"metadata":{"resourceVersion":7}}"#, 422, "metadata.resourceVersion: Invalid value"),
        ("PATCH", &c, r#"{"metadata":{"labels":{"a b":"x"}}}"#, 422, "metadata.labels: Invalid value: \"a b\""),
        ("PATCH", &c, r#"{"data":5}"#, 422, "data: Invalid value: \"integer\""),
        ("PATCH", &fixed, r#"{"data":{"a":"2"}}"#, 422, "field is immutable when `immutable` is set"),
        ("PATCH", &fixed, r#"{"immutable":false}"#, 422, "field is immutable when `immutable` is set"),
        ("PATCH", &secret, r#"{"type":"other"}"#, 422, "type: Invalid value: \"other\": field is immutable"),
        (
            "PATCH",
            &secret,
            r#"{"data":{"a":"not base64"}}"#,
            422,
            "data.a: Invalid value: data.a in body must be of type byte",
        ),
        ("PATCH", &credential, r#"{"spec":{"token":5}}"#, 422, "spec.token: Invalid value: \"integer\""),
        ("PUT", &c, r#"{"metadata":{"name":"z"}}"#, 400, "does not match the name on the URL"),
        ("PUT", &c, r#"{"metadata":{"uid":"z"}}"#, 409, "UID in precondition"),
        ("PUT", &c, r#"{"metadata":{"resourceVersion":"1"}}"#, 409, "has been modified"),
        ("PUT", &c, r#"{"metadata":{"resourceVersion":1}}"#, 422, "metadata.resourceVersion: Invalid value"),
        ("PUT", &credential, r#"{"spec":{"provider":"x"}}"#, 422, "metadata.resourceVersion: Invalid value: 0x0"),
    ];
    for (method, path, body, code, words) in table {
        let media = if method == "PUT" { "application/json" } else { MERGE };
        bothered.wire.call(method, path, media, body).refused(code, words, &format!("{method} {body}"));
    }
    // What only the server sets is not taken from anybody, and makes no new version.
    let before = bothered.wire.get(&c);
    for forged in [
        json!({"metadata": {"deletionTimestamp": "2000-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}}),
        json!({"metadata": {"creationTimestamp": "2000-01-01T00:00:00Z"}}),
        json!({"metadata": {"generation": 77, "managedFields": [], "selfLink": "/x"}}),
        json!({"metadata": null}),
        json!({"status": {"phase": "Ready"}}),
    ] {
        assert_eq!(bothered.wire.json("PATCH", &c, &forged).expect(200), before, "{forged}");
    }
    let unset =
        bothered.wire.json("PATCH", &credential, &json!({"spec": {"token": null}, "status": {"tokenSet": false}}));
    assert_eq!(
        unset.expect(200)["status"]["tokenSet"],
        true,
        "a token that cannot be seen is not taken away by a patch"
    );
    bothered.stays_well();
}

#[test]
fn a_new_object_forges_nothing() {
    let bothered = Bothered::new();
    let forged = json!({
        "metadata": {
            "name": "f", "uid": "forged", "generation": 99, "selfLink": "/x",
            "creationTimestamp": "2000-01-01T00:00:00Z", "deletionTimestamp": "2000-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": 0, "managedFields": [],
        },
        "spec": {"command": ["/bin/true"], "desiredState": "Stopped"},
        "status": {"phase": "Completed", "exitCode": 0, "attempts": 7},
    });
    let made = bothered.wire.json("POST", SESSIONS, &forged).expect(201);
    let metadata = &made["metadata"];
    assert!(metadata["uid"] != "forged" && metadata["generation"] == 1, "{made}");
    assert!(metadata["creationTimestamp"].as_str().unwrap() > "2020", "{made}");
    for absent in ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink"] {
        assert!(metadata.get(absent).is_none(), "{absent}: {made}");
    }
    assert_eq!(made["status"]["phase"], "Pending");
    assert!(made["status"]["exitCode"].is_null() && made["status"]["attempts"] != 7, "{made}");
    bothered.has_not_suffered();
}

#[test]
fn a_sessions_state_goes_its_own_way_only() {
    let bothered = Bothered::with_session();
    let (session, status) = (format!("{SESSIONS}/s"), format!("{SESSIONS}/s/status"));
    let pod = "/api/v1/namespaces/default/pods/s-1";
    let main = bothered.wire.json("PATCH", &session, &json!({"status": {"phase": "Completed"}})).expect(200);
    assert_eq!(main["status"]["phase"], "Running", "status is not changed through the main resource");
    let spec = bothered.wire.json("PATCH", &status, &json!({"spec": {"run": 5}})).expect(200);
    assert_eq!(spec["spec"]["run"], 1, "the spec is not changed through status");
    for (path, change, words) in [
        (status.as_str(), json!({"status": {"phase": "Bogus"}}), "status.phase: Unsupported value: \"Bogus\""),
        (&status, json!({"status": {"phase": "Stopped"}}), "a session that is Running may not become Stopped"),
        (&status, json!({"status": {"phase": "Creating"}}), "a session that is Running may not become Creating"),
        (&session, json!({"spec": {"run": 0}}), "spec.run: Invalid value: 0"),
        (&session, json!({"spec": {"run": 1.5}}), "spec.run: Invalid value: \"number\""),
        (&session, json!({"spec": {"desiredState": "Paused"}}), "spec.desiredState: Unsupported value"),
        (pod, json!({"spec": {"nodeName": "other"}}), "a Pod stays with the node that it was given to"),
        (pod, json!({"spec": {"containers": []}}), "spec.containers"),
    ] {
        bothered.wire.json("PATCH", path, &change).refused(422, words, &change.to_string());
    }
    bothered.stays_well();
}
