//! Tokens that are forged, stale, or used for more than they are for.

use std::io::Write as _;
use std::path::Path;

use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as URL};

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

/// A token of the service account `default`.
fn issued(wire: &Wire, spec: &Value) -> String {
    let answer = wire.json("POST", &format!("{ACCOUNT}/token"), &json!({"spec": spec})).expect(201);
    answer["status"]["token"].as_str().unwrap().to_owned()
}

fn parts(token: &str) -> (String, Value, String) {
    let mut parts = token.split('.').map(str::to_owned);
    let (header, claims, signature) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    (header, serde_json::from_slice(&URL.decode(claims).unwrap()).unwrap(), signature)
}

/// Claims under a header, signed with this key.
fn signed(key: &EcdsaKeyPair, header: &str, claims: &Value) -> String {
    let text = format!("{header}.{}", URL.encode(claims.to_string()));
    let signature = key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    format!("{text}.{}", URL.encode(signature))
}

/// A signing key as an earlier version kept it: a server that finds it there takes it over, and signs with it.
fn own_key(data_dir: &Path) -> EcdsaKeyPair {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let document = key.to_pkcs8v1().unwrap();
    let dir = data_dir.join("keys");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).unwrap();
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join("token.key"));
    file.unwrap().write_all(BASE64_STANDARD.encode(document.as_ref()).as_bytes()).unwrap();
    key
}

fn changed(claims: &Value, pointer: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims.clone();
    *claims.pointer_mut(pointer).unwrap() = value.into();
    claims
}

#[test]
fn forged_and_stale_tokens_are_refused() {
    let mut server = Server::idle(env!("CARGO_BIN_EXE_mainstay")).unwrap();
    let own = own_key(&server.data_dir());
    server.restart().unwrap();
    let bothered = Bothered::with_session_on(server);
    let wire = &bothered.wire;
    let good = issued(wire, &json!({}));
    assert_eq!(wire.call_as(&good, "GET", "/api", "", "").status, 200, "the token that all others are made from");
    let (header, claims, signature) = parts(&good);
    let body = URL.encode(claims.to_string());
    let other = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let under = |header: &str| URL.encode(header);
    let none = under(r#"{"alg":"none","typ":"JWT"}"#);
    let now = claims["iat"].as_i64().unwrap();
    let by_us = |claims: &Value| signed(&own, &header, claims);
    let not_ours = "not valid for this server";
    assert_eq!(wire.call_as(&by_us(&claims), "GET", "/api", "", "").status, 200, "signing is done right here");
    let account = "/mainstay.dev/serviceaccount/uid";
    let table = [
        (String::new(), "no credentials were given"),
        ("x".to_owned(), not_ours),
        (format!("{none}.{body}."), not_ours),
        (format!("{none}.{body}.{signature}"), not_ours),
        (format!("{}.{body}.{signature}", under(r#"{"alg":"HS256","typ":"JWT"}"#)), not_ours),
        (signed(&own, &none, &claims), not_ours),
        (signed(&own, &under(r#"{"alg":"ES256","typ":"JWT"}"#), &claims), not_ours),
        (signed(&other, &header, &claims), not_ours),
        (good[..good.len() - 1].to_owned(), not_ours),
        (good[..good.len() / 2].to_owned(), not_ours),
        (format!("{header}.{body}"), not_ours),
        (format!("{header}.{body}."), not_ours),
        (format!("{header}.{}.{signature}", URL.encode(changed(&claims, "/exp", now + 99_999).to_string())), not_ours),
        (format!("{good}.{signature}"), not_ours),
        (format!("{good}="), not_ours),
        ("x".repeat(7_000), not_ours),
        ("x".repeat(9_000), "it is too long"),
        (by_us(&json!([])), not_ours),
        (by_us(&changed(&claims, "/iss", "https://elsewhere")), not_ours),
        (by_us(&changed(&claims, "/aud", json!(["vault"]))), "for another audience"),
        (by_us(&changed(&claims, "/aud", json!([]))), "for another audience"),
        (by_us(&changed(&claims, "/exp", now - 1)), "has expired"),
        (by_us(&changed(&claims, "/exp", 0)), "has expired"),
        (by_us(&changed(&claims, "/nbf", now + 600)), "not valid yet"),
        (by_us(&changed(&claims, account, "another")), "its service account is gone"),
        (issued(wire, &json!({"audiences": ["vault"]})), "for another audience"),
    ];
    for (token, words) in table {
        for path in ["/api", CONFIGMAPS, "/metrics", &format!("{SESSIONS}/s/messages?follow=1")] {
            let what = format!("{}... {path}", &token[..token.len().min(60)]);
            wire.call_as(&token, "GET", path, "", "").refused(401, words, &what);
        }
        wire.call_as(&token, "POST", CONFIGMAPS, "application/json", configmap("x").to_string())
            .refused(401, words, "");
    }
    bothered.stays_well();
}

#[test]
fn headers_that_are_no_credentials_are_refused() {
    let bothered = Bothered::new();
    let token = &bothered.wire.token;
    let table = [
        (
            format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("admin:{token}"))),
            "only the scheme Bearer",
        ),
        (format!("Authorization: {token}\r\n"), "expected \"Bearer TOKEN\""),
        ("Authorization: Bearer  \r\n".to_owned(), "Authorization header is not understood"),
        (format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"), "given more than once"),
        (format!("Authorization: Bearer {token}\r\nImpersonate-User: ann\r\n"), "impersonation is not offered"),
        (format!("Authorization: Bearer {token}x\r\n"), "not valid for this server"),
        (format!("Authorization: Bearer {}\r\n", &token[..token.len() - 1]), "not valid for this server"),
        (format!("Authorization: Bearer {}\r\n", token.to_uppercase()), "not valid for this server"),
        (format!("Cookie: token={token}\r\n"), "no credentials were given"),
        (format!("X-Remote-User: admin\r\nX-Remote-Group: system:masters\r\nX-Token: {token}\r\n"), "no credentials"),
    ];
    for (headers, words) in table {
        let request = format!("GET {SECRETS}?token={token} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        Answer::parse(&bothered.wire.raw(request.as_bytes())).refused(401, words, &headers);
    }
    bothered.stays_well();
}

#[test]
fn a_token_dies_with_what_it_stands_for() {
    let bothered = Bothered::with(&[("/api/v1/namespaces", json!({"metadata": {"name": "short"}}))]);
    let wire = &bothered.wire;
    let accounts = "/api/v1/namespaces/short/serviceaccounts";
    let account = json!({"metadata": {"name": "robot"}});
    wire.json("POST", accounts, &account).expect(201);
    let request = |bound: Value| {
        let answer = wire.json("POST", &format!("{accounts}/robot/token"), &json!({"spec": {"boundObjectRef": bound}}));
        answer.expect(201)["status"]["token"].as_str().unwrap().to_owned()
    };
    let secrets = "/api/v1/namespaces/short/secrets";
    let secret = json!({"metadata": {"name": "anchor"}});
    wire.json("POST", secrets, &secret).expect(201);
    let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": "anchor"});
    let (free, anchored) = (request(Value::Null), request(bound));
    let refused = |token: &str, words: &str| wire.call_as(token, "GET", "/api", "", "").refused(401, words, words);
    assert_eq!(wire.call_as(&anchored, "GET", "/api", "", "").status, 200);
    wire.call("DELETE", &format!("{secrets}/anchor"), "", "").expect(200);
    refused(&anchored, "the object that it is bound to is gone");
    wire.json("POST", secrets, &secret).expect(201);
    refused(&anchored, "the object that it is bound to is gone");
    assert_eq!(wire.call_as(&free, "GET", "/api", "", "").status, 200);
    wire.call("DELETE", &format!("{accounts}/robot"), "", "").expect(200);
    refused(&free, "its service account is gone");
    wire.json("POST", accounts, &account).expect(201);
    refused(&free, "its service account is gone");
    bothered.has_not_suffered();
}

#[test]
fn a_sessions_token_is_for_that_session_only() {
    let bothered = Bothered::with_session();
    let wire = &bothered.wire;
    wire.json("POST", SESSIONS, &session("neighbour")).expect(201);
    let neighbour = format!("{SESSIONS}/neighbour");
    wire.until(&neighbour, |session| session["status"]["phase"] == "Running");
    let bound = json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "name": "s"});
    let token = issued(wire, &json!({"boundObjectRef": bound}));
    let own = format!("{SESSIONS}/s");
    for path in [own.clone(), format!("{own}/messages"), format!("{own}/heartbeat")] {
        assert_eq!(wire.call_as(&token, "GET", &path, "", "").status, 200, "{path}");
    }
    let message = |kind: &str| json!({"messages": [{"id": kind, "type": kind, "text": "x"}]}).to_string();
    let one = "{}".to_owned();
    let elsewhere = own.replace("/default/", "/mainstay-system/");
    let table = [
        ("GET", neighbour.clone(), ""),
        ("GET", format!("{neighbour}/messages"), ""),
        ("GET", format!("{neighbour}/messages?follow=1"), ""),
        ("GET", format!("{neighbour}/heartbeat"), ""),
        ("POST", format!("{neighbour}/messages"), &message("agent")),
        ("PUT", format!("{neighbour}/heartbeat"), r#"{"run":1,"podUID":"x"}"#),
        ("GET", elsewhere, ""),
        ("POST", format!("{own}/messages"), &message("user")),
        ("PUT", own.clone(), &one),
        ("PATCH", own.clone(), &one),
        ("PATCH", format!("{own}/status"), &one),
        ("DELETE", own.clone(), ""),
        ("GET", SESSIONS.to_owned(), ""),
        ("GET", format!("{SESSIONS}?watch=1"), ""),
        ("GET", format!("{SESSIONS}?watch=1&fieldSelector=metadata.name%3Ds"), ""),
        ("POST", SESSIONS.to_owned(), &one),
        ("DELETE", SESSIONS.to_owned(), ""),
        ("GET", SECRETS.to_owned(), ""),
        ("GET", CREDENTIALS.to_owned(), ""),
        ("GET", format!("{CREDENTIALS}/x/reveal"), ""),
        ("GET", CONFIGMAPS.to_owned(), ""),
        ("POST", CONFIGMAPS.to_owned(), &one),
        ("GET", "/api/v1/namespaces/default/pods/s-1".to_owned(), ""),
        ("GET", "/api/v1/namespaces/default/pods/s-1/log".to_owned(), ""),
        ("POST", format!("{ACCOUNT}/token"), &one),
        ("GET", "/api/v1/namespaces".to_owned(), ""),
        ("GET", "/apis/mainstay.dev/v1alpha1/projects".to_owned(), ""),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".to_owned(), &one),
        ("GET", "/metrics".to_owned(), ""),
    ];
    for (method, path, body) in table {
        let answer = wire.call_as(&token, method, &path, if body.is_empty() { "" } else { "application/json" }, body);
        answer.refused(403, "", &format!("{method} {path}"));
    }
    // A new session of that name is another one.
    wire.call("DELETE", &own, "", "");
    wire.until(&own, |found| found["code"] == 404);
    wire.json("POST", SESSIONS, &session("s")).expect(201);
    wire.call_as(&token, "GET", &own, "", "").refused(401, "is gone", "a new session of that name");
    bothered.has_not_suffered();
}
