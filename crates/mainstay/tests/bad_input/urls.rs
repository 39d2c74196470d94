//! Paths, parameters, selectors and methods that make no sense.

use super::*;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

fn continued(text: &str) -> String {
    format!("{CONFIGMAPS}?limit=1&continue={}", BASE64_URL_SAFE_NO_PAD.encode(text))
}

#[test]
fn paths_that_lead_nowhere_are_refused() {
    let bothered = Bothered::with(&[(CONFIGMAPS, configmap("c"))]);
    let none = "could not find the requested resource";
    let table = [
        ("/%00".to_owned(), 404, none),
        (format!("{CONFIGMAPS}/%00"), 404, "not found"),
        (format!("{CONFIGMAPS}/a%2Fb"), 404, "configmaps \"a/b\" not found"),
        (format!("{CONFIGMAPS}/%zz"), 400, "'%' that two hexadecimal digits do not follow"),
        (format!("{CONFIGMAPS}/c%"), 400, "'%' that two hexadecimal digits do not follow"),
        (format!("{CONFIGMAPS}/%ff%fe"), 400, "not valid UTF-8"),
        (format!("{CONFIGMAPS}/c/bogus"), 404, none),
        (format!("{CONFIGMAPS}/c/status"), 404, none),
        (format!("{CONFIGMAPS}/c/a/b/c"), 404, none),
        (format!("{CONFIGMAPS}/{}", "x".repeat(5_000)), 414, "the path is too long"),
        ("/api/v1/namespaces/default/../configmaps".to_owned(), 404, none),
        ("/api/v1/namespaces//configmaps".to_owned(), 404, none),
        ("/api/v1/namespaces/DEFAULT/configmaps/c".to_owned(), 404, "not found"),
        ("/api/v1/nowhere".to_owned(), 404, none),
        ("/api/v2/configmaps".to_owned(), 404, none),
        ("/apis//v1/x".to_owned(), 404, none),
        ("/apis/nope/v1/x".to_owned(), 404, none),
        ("//".to_owned(), 404, none),
        ("/apis/mainstay.dev/v1alpha1/sessions/s".to_owned(), 404, none),
    ];
    for (path, code, words) in table {
        bothered.wire.call("GET", &path, "", "").refused(code, words, &path);
    }
    let (one, session) = (format!("{CONFIGMAPS}/c"), format!("{SESSIONS}/none"));
    for (method, path) in [
        ("BREW", CONFIGMAPS),
        ("TRACE", CONFIGMAPS),
        ("OPTIONS", CONFIGMAPS),
        ("PUT", CONFIGMAPS),
        ("PATCH", CONFIGMAPS),
        ("POST", &one),
        ("DELETE", "/livez"),
        ("POST", "/version"),
        ("PATCH", "/apis"),
        ("POST", "/openapi/v3"),
        ("DELETE", &format!("{session}/status")),
        ("PUT", &format!("{session}/messages")),
        ("DELETE", &format!("{session}/heartbeat")),
        ("GET", "/api/v1/namespaces/default/serviceaccounts/default/token"),
    ] {
        bothered.wire.call(method, path, "application/json", "{}").refused(405, "does not allow this method", path);
    }
    bothered.stays_well();
}

const LIST: &str = "/api/v1/namespaces/default/configmaps?";
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=1&";
const LOG: &str = "/api/v1/namespaces/default/pods/s-1/log?";
const MESSAGES: &str = "/apis/mainstay.dev/v1alpha1/namespaces/default/sessions/s/messages?";
const NUMBER: &str = "is not a valid number";
const FLAG: &str = "is not true or false";

/// What parameters get that make no sense: path, parameters, code, words.
const PARAMETERS: &[(&str, &str, u16, &str)] = &[
    (LIST, "labelSelector=a%3D%28", 400, "unable to parse requirement: found '('"),
    (LIST, "labelSelector=%21%21a", 400, "unable to parse requirement: found '!'"),
    (LIST, "labelSelector=a+b", 400, "found 'b', expected: in, notin, =, ==, !=, gt, lt"),
    (LIST, "labelSelector=a+in+(x", 400, "found '', expected: ',', or ')'"),
    (LIST, "labelSelector=a%00", 400, "unable to parse requirement"),
    (LIST, "labelSelector=a%3Eb", 400, "the value must be an integer"),
    (LIST, "labelSelector=%ff", 400, "not valid UTF-8"),
    (LIST, "labelSelector=%f", 400, "'%' that two hexadecimal digits do not follow"),
    (LIST, "fieldSelector=spec.x%3D1", 400, "field label not supported: spec.x"),
    (LIST, "fieldSelector=metadata.name", 400, "can't understand 'metadata.name'"),
    (LIST, "fieldSelector=metadata.name%3D%5C", 400, "invalid escape sequence"),
    (LIST, "limit=-1", 400, NUMBER),
    (LIST, "limit=1e3", 400, NUMBER),
    (LIST, "limit=99999999999999999999999", 400, NUMBER),
    (LIST, "timeoutSeconds=soon", 400, NUMBER),
    (LIST, "watch=maybe", 400, FLAG),
    (LIST, "resourceVersion=abc", 400, "must be a number that this server returned"),
    (LIST, "resourceVersion=-1", 400, "must be a number that this server returned"),
    (LIST, "resourceVersion=99999999", 504, "Too large resource version: 99999999"),
    (LIST, "resourceVersionMatch=Exact", 400, "forbidden without a resourceVersion above 0"),
    (LIST, "resourceVersionMatch=Bogus&resourceVersion=1", 400, "unsupported value \"Bogus\""),
    (LIST, "continue=%25%25", 400, "continue key is not valid"),
    (LIST, "continue=abc", 400, "continue key is not valid"),
    (WATCH, "resourceVersion=abc", 400, NUMBER),
    (WATCH, "timeoutSeconds=-1", 400, NUMBER),
    (WATCH, "limit=abc", 400, NUMBER),
    (WATCH, "allowWatchBookmarks=x", 400, FLAG),
    (WATCH, "sendInitialEvents=maybe", 400, FLAG),
    (WATCH, "sendInitialEvents=true", 422, "requires setting resourceVersionMatch to NotOlderThan"),
    (WATCH, "resourceVersionMatch=NotOlderThan", 422, "is forbidden for watch unless sendInitialEvents"),
    (LOG, "tailLines=-1", 400, NUMBER),
    (LOG, "sinceSeconds=x", 400, NUMBER),
    (LOG, "sinceTime=yesterday", 400, "is not a time of RFC 3339"),
    (LOG, "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 400, "at most one of sinceTime or sinceSeconds"),
    (LOG, "container=other", 400, "container other is not valid for pod s-1"),
    (LOG, "previous=true", 400, "a Pod of this server runs once"),
    (LOG, "stream=Stderr", 400, "the streams of a log are not kept apart"),
    (LOG, "follow=maybe", 400, FLAG),
    (MESSAGES, "after=-1", 400, NUMBER),
    (MESSAGES, "limit=x", 400, NUMBER),
    (MESSAGES, "timeoutSeconds=-1", 400, NUMBER),
    (MESSAGES, "follow=maybe", 400, FLAG),
    (MESSAGES, "types=user,king", 400, "types: Unsupported value: \"king\""),
];

#[test]
fn parameters_that_make_no_sense_are_refused() {
    let bothered = Bothered::with_session();
    let list = |query: &str| format!("{LIST}{query}");
    let made = [
        (list(&format!("labelSelector={}", "a%2C".repeat(3_000))), 400, "more than 256 requirements"),
        (list(&format!("labelSelector={}", "x".repeat(20_000))), 414, "the query is longer than 16384 bytes"),
        (continued("{}"), 400, "continue key is not valid"),
        (continued(r#"{"r":0,"s":"","n":""}"#), 400, "continue key is not valid"),
        (continued(r#"{"r":-1,"s":"","n":""}"#), 400, "continue key is not valid"),
        (continued(r#"{"r":99999999,"s":"","n":""}"#), 400, "continue key is not valid"),
        (format!("{}&resourceVersion=5", continued("{}")), 400, "not allowed when using continue"),
        (list(&"a=b&".repeat(100)), 400, "more than 64 parameters"),
        (format!("{CONFIGMAPS}/none?resourceVersion=abc"), 400, "must be a number that this server returned"),
    ];
    let fixed = PARAMETERS.iter().map(|(base, query, code, words)| (format!("{base}{query}"), *code, *words));
    for (path, code, words) in fixed.chain(made) {
        bothered.wire.call("GET", &path, "", "").refused(code, words, &path[..path.len().min(200)]);
    }
    for (query, words) in [
        ("labelSelector=((", "found '('"),
        ("fieldSelector=x%3D1", "field label not supported"),
        ("gracePeriodSeconds=abc", NUMBER),
        ("propagationPolicy=Bogus", "unknown variant `Bogus`"),
        ("dryRun=Some", "unsupported value \"Some\""),
    ] {
        bothered.wire.call("DELETE", &format!("{SESSIONS}?{query}"), "", "").refused(400, words, query);
    }
    for query in ["dryRun=Some", "fieldValidation=Lax"] {
        bothered.wire.json("POST", &format!("{CONFIGMAPS}?{query}"), &configmap("new")).refused(
            400,
            query.split('=').next().unwrap(),
            query,
        );
    }
    // What is ahead of all history ends the watch with a 410, for the client to list again.
    let ahead = bothered.wire.call("GET", &format!("{WATCH}resourceVersion=99999999"), "", "").expect(200);
    assert_eq!((&ahead["type"], &ahead["object"]["code"]), (&json!("ERROR"), &json!(410)), "{ahead}");
    bothered.stays_well();
}
