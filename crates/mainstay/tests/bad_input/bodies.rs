//! Bodies that are no objects, of wrong types, or too large in one way or another.

use super::*;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

fn nested(open: &str, close: &str, levels: usize) -> Vec<u8> {
    format!("{}{}", open.repeat(levels), close.repeat(levels)).into_bytes()
}

/// Each alias is nine of the one before: 9^6 nodes in 300 bytes.
fn laughter() -> Vec<u8> {
    let mut text = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..=6 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        text = format!("{text}a{level}: &a{level} [{aliases}]\n");
    }
    text.into_bytes()
}

#[test]
fn what_is_no_object_is_refused() {
    let bothered = Bothered::with(&[(CONFIGMAPS, configmap("c"))]);
    let many = format!("{{{}\"z\":1}}", (0..200_000).map(|n| format!("\"k{n}\":1,")).collect::<Vec<_>>().concat());
    // (type, body, code, words)
    let table: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        (JSON, b"".to_vec(), 400, "not valid JSON: EOF"),
        (JSON, b"{".to_vec(), 400, "not valid JSON: EOF while parsing an object at line 1 column 1"),
        (JSON, b"[]".to_vec(), 400, "the body must be a JSON object of kind ConfigMap"),
        (JSON, b"null".to_vec(), 400, "must be a JSON object"),
        (JSON, b"\"x\"".to_vec(), 400, "must be a JSON object"),
        (JSON, b"{}{}".to_vec(), 400, "trailing characters"),
        (JSON, b"\xef\xbb\xbf{}".to_vec(), 400, "expected value"),
        (JSON, b"{\"data\":{\"k\":\"\xff\"}}".to_vec(), 400, "invalid unicode"),
        (JSON, br#"{"data":{"k":"\ud800"}}"#.to_vec(), 400, "unexpected end of hex escape"),
        (JSON, b"{\"data\":{\"k\":\"a\0b\"}}".to_vec(), 400, "control character"),
        (JSON, b"{\"a\":1e999}".to_vec(), 400, "number out of range"),
        (JSON, format!("{{\"a\":{}}}", "9".repeat(100_000)).into_bytes(), 400, "number out of range"),
        (JSON, br#"{"metadata":{"name":"x"},"data":{"a":"1","a":"2"}}"#.to_vec(), 400, "duplicate field \"data.a\""),
        (JSON, br#"{"metadata":{"name":"x"},"metadata":{"name":"y"}}"#.to_vec(), 400, "duplicate field \"metadata\""),
        (JSON, nested("[", "]", 100_000), 400, "nested deeper than 64 levels"),
        (JSON, nested("{\"a\":", "}", 100_000), 400, "nested deeper than 64 levels"),
        (JSON, "[".repeat(100_000).into_bytes(), 400, "nested deeper than 64 levels"),
        (JSON, vec![b' '; 10 << 20], 413, "larger than the limit of 3145728 bytes"),
        (JSON, vec![b'{'; 10 << 20], 413, "larger than the limit of 3145728 bytes"),
        (JSON, many.into_bytes(), 400, "strict decoding error: unknown field \"k0\""),
        (YAML, b"a: [".to_vec(), 400, "not valid YAML"),
        (YAML, b"a: &x [*y]".to_vec(), 400, "not valid YAML"),
        (YAML, b"- x".to_vec(), 400, "must be a JSON object"),
        (YAML, b"\xff\xfe".to_vec(), 400, "not valid YAML: invalid utf-8"),
        (YAML, b"metadata: {name: x}\ndata: {a: '1', a: '2'}".to_vec(), 400, "duplicate"),
        (YAML, b"metadata: {name: x}\n---\nmetadata: {name: y}\n".to_vec(), 400, "not valid YAML"),
        (YAML, b"metadata: {name: x}\ndata: {a: .inf}".to_vec(), 400, "not valid YAML"),
        (YAML, b"? [a]\n: b".to_vec(), 400, "not valid YAML"),
        (YAML, nested("[", "]", 100_000), 400, "not valid YAML"),
        (YAML, nested("{a: ", "}", 100_000), 400, "not valid YAML"),
        (YAML, laughter(), 400, "not valid YAML"),
        (YAML, vec![b' '; 10 << 20], 413, "larger than the limit"),
    ];
    for (media, body, code, words) in table {
        let what = format!("{media} {:?}", String::from_utf8_lossy(&body[..body.len().min(60)]));
        let path = format!("{CONFIGMAPS}?fieldValidation=Strict");
        let answer = bothered.wire.call("POST", &path, media, &body);
        answer.refused(code, words, &what);
        assert!(answer.body.len() < 16 << 10, "{what}: an answer of {} bytes", answer.body.len());
        // The same is refused where an object is there already.
        if code == 400 {
            bothered
                .wire
                .call("PUT", &format!("{CONFIGMAPS}/c?fieldValidation=Strict"), media, &body)
                .refused(code, words, &what);
        }
    }
    bothered.stays_well();
}

#[test]
fn wrong_media_types_are_refused_by_name() {
    let bothered = Bothered::with(&[(CONFIGMAPS, configmap("c"))]);
    let (wire, body) = (&bothered.wire, configmap("new").to_string());
    let one = format!("{CONFIGMAPS}/c");
    let plain = "accepted media types include: application/json, application/yaml";
    let patches = "accepted media types: application/merge-patch+json, application/json-patch+json";
    let table = [
        ("POST", CONFIGMAPS, "text/html", plain),
        ("POST", CONFIGMAPS, "application/xml", plain),
        ("POST", CONFIGMAPS, "application/cbor", plain),
        ("POST", CONFIGMAPS, "multipart/form-data; boundary=x", plain),
        ("POST", CONFIGMAPS, "application/merge-patch+json", plain),
        ("POST", CONFIGMAPS, "application/vnd.kubernetes.protobuf", "protobuf bodies are not supported"),
        ("PUT", &one, "application/vnd.kubernetes.protobuf", "protobuf bodies are not supported"),
        ("DELETE", &one, "application/vnd.kubernetes.protobuf", "protobuf bodies are not supported"),
        ("DELETE", &one, "text/plain", "DeleteOptions must be application/json or application/yaml"),
        ("PATCH", &one, "application/strategic-merge-patch+json", "strategic merge patch is not supported"),
        ("PATCH", &one, "application/apply-patch+yaml", "server-side apply is not supported"),
        ("PATCH", &one, "application/apply-patch+cbor", "server-side apply is not supported"),
        ("PATCH", &one, "application/json", patches),
        ("PATCH", &one, "", patches),
    ];
    for (method, path, media, words) in table {
        wire.call(method, path, media, &body).refused(415, words, &format!("{method} {media}"));
    }
    for accept in [
        "application/vnd.kubernetes.protobuf",
        "text/html",
        "application/yaml",
        "application/json;as=Bogus;g=meta.k8s.io;v=v1",
        "application/json;as=Table;g=meta.k8s.io;v=v9",
        "x",
    ] {
        for path in [one.as_str(), CONFIGMAPS] {
            let request = format!("{}Connection: close\r\nAccept: {accept}\r\n\r\n", wire.head("GET", path));
            Answer::parse(&wire.raw(request.as_bytes())).refused(406, "only the following media types", accept);
        }
    }
    // Case and parameters make no other type.
    wire.call("POST", &format!("{CONFIGMAPS}?dryRun=All"), "Application/JSON; charset=utf-8", body).expect(201);
    bothered.stays_well();
}

const ONE: &str = "/api/v1/namespaces/default/configmaps/c";
const MESSAGES: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/sessions/s/messages";
const HEARTBEAT: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/sessions/s/heartbeat";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";

/// What bodies of actions get that make no sense: method, path, body, code, words.
const ACTIONS: &[(&str, &str, &str, u16, &str)] = &[
    ("DELETE", ONE, "[]", 400, "not a valid DeleteOptions: it must be an object"),
    ("DELETE", ONE, "null", 400, "not a valid DeleteOptions"),
    ("DELETE", ONE, r#"{"kind":"ConfigMap"}"#, 400, "not a valid DeleteOptions, but a \"ConfigMap\""),
    ("DELETE", ONE, r#"{"preconditions":[]}"#, 400, "preconditions must be an object"),
    ("DELETE", ONE, r#"{"preconditions":{"uid":"x"}}"#, 409, "Precondition failed: UID"),
    ("DELETE", ONE, r#"{"preconditions":{"resourceVersion":"1"}}"#, 409, "Precondition failed: ResourceVersion"),
    ("DELETE", ONE, r#"{"preconditions":{"uid":5}}"#, 400, "not a valid DeleteOptions"),
    ("DELETE", ONE, r#"{"propagationPolicy":"Bogus"}"#, 400, "unknown variant `Bogus`"),
    ("DELETE", ONE, r#"{"gracePeriodSeconds":-1}"#, 400, "must not be negative"),
    ("DELETE", ONE, r#"{"gracePeriodSeconds":"x"}"#, 400, "not a valid DeleteOptions"),
    ("DELETE", ONE, r#"{"dryRun":["Some"]}"#, 400, "dryRun: unsupported value \"Some\""),
    ("DELETE", ONE, r#"{"orphanDependents":true,"propagationPolicy":"Orphan"}"#, 400, "cannot both be set"),
    ("DELETE", CONFIGMAPS, "[]", 400, "not a valid DeleteOptions"),
    ("DELETE", "/api/v1/namespaces/default", "", 403, "this namespace may not be deleted"),
    ("POST", MESSAGES, "", 400, "not valid JSON"),
    ("POST", MESSAGES, "[]", 400, "not a list of messages: it must be an object"),
    ("POST", MESSAGES, "[[]]", 400, "not a list of messages: it must be an object"),
    ("POST", MESSAGES, "{}", 400, "missing field `messages`"),
    ("POST", MESSAGES, r#"{"messages":[]}"#, 400, "messages: 0 given; send 1 to 256 at a time"),
    ("POST", MESSAGES, r#"{"messages":[{"id":"","type":"user"}]}"#, 400, "messages[0].id: must have 1 to 128"),
    ("POST", MESSAGES, r#"{"messages":[{"id":"a\u0000","type":"user"}]}"#, 400, "none of them a control character"),
    ("POST", MESSAGES, r#"{"messages":[{"id":"a","type":"king"}]}"#, 400, "messages[0].type: Unsupported value"),
    ("POST", MESSAGES, r#"{"messages":[{"id":"a","type":"agent"}]}"#, 403, "only the session itself sends these"),
    ("POST", MESSAGES, r#"{"messages":[{"id":"a","type":"user","bogus":1}]}"#, 400, "unknown field `bogus`"),
    ("POST", MESSAGES, r#"{"messages":[{"id":"a","type":"user","run":-1}]}"#, 400, "not a list of messages"),
    ("PUT", HEARTBEAT, "[]", 400, "not a heartbeat: it must be an object"),
    ("PUT", HEARTBEAT, r#"{"run":"x","podUID":"y"}"#, 400, "not a heartbeat"),
    ("PUT", HEARTBEAT, r#"{"run":0,"podUID":"y"}"#, 400, "run must be at least 1"),
    ("PUT", HEARTBEAT, r#"{"run":1,"podUID":"y"}"#, 409, "is not this session's"),
    ("POST", TOKEN, "[]", 400, "not a TokenRequest: it must be an object"),
    ("POST", TOKEN, r#"{"kind":"Bogus"}"#, 400, "does not match the expected \"TokenRequest\""),
    ("POST", TOKEN, r#"{"spec":5}"#, 422, "spec: Invalid value: must be an object"),
    ("POST", TOKEN, r#"{"spec":{"expirationSeconds":599}}"#, 422, "must be an integer from 600 to 3600"),
    ("POST", TOKEN, r#"{"spec":{"expirationSeconds":1e12}}"#, 422, "must be an integer from 600 to 3600"),
    ("POST", TOKEN, r#"{"spec":{"audiences":[""]}}"#, 422, "spec.audiences[0]"),
    ("POST", TOKEN, r#"{"spec":{"boundObjectRef":{}}}"#, 422, "spec.boundObjectRef.name: Required value"),
    ("POST", ACCESS, "{}", 400, "spec: invalid type: null, expected an object"),
    ("POST", ACCESS, r#"{"spec":{}}"#, 400, "exactly one of nonResourceAttributes or resourceAttributes"),
    ("POST", ACCESS, r#"{"spec":{"resourceAttributes":5}}"#, 400, "expected an object"),
    ("POST", ACCESS, "[]", 400, "not a review: it must be an object"),
    ("POST", RULES, r#"{"spec":{}}"#, 400, "no namespace on request"),
];

#[test]
fn bodies_of_actions_are_read_before_anything_is_done() {
    let bothered = Bothered::with_session();
    bothered.wire.json("POST", CONFIGMAPS, &configmap("c")).expect(201);
    let long = format!(r#"{{"messages":[{{"id":"a","type":"user","text":"{}"}}]}}"#, "x".repeat(1 << 20));
    let deep = format!(r#"{{"messages":[{{"id":"a","type":"user","data":{}}}]}}"#, "[".repeat(100_000));
    let many = format!(r#"{{"messages":[{}]}}"#, vec![r#"{"id":"a","type":"user"}"#; 257].join(","));
    let large = [
        ("POST", MESSAGES, many.as_str(), 400, "messages: 257 given"),
        ("POST", MESSAGES, &long, 413, "larger than the limit of 1048576 bytes"),
        ("POST", MESSAGES, &deep, 400, "nested deeper than 64 levels"),
    ];
    for (method, path, body, code, words) in ACTIONS.iter().copied().chain(large) {
        let what = format!("{method} {path} {}", &body[..body.len().min(80)]);
        bothered.wire.call(method, path, "application/json", body).refused(code, words, &what);
    }
    assert_eq!(bothered.wire.call("GET", MESSAGES, "", "").text(), "", "no message was taken");
    bothered.wire.json("DELETE", ONE, &json!({})).expect(200);
    bothered.stays_well();
}
