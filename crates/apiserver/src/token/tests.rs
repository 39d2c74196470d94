//! S12, S13: what is forged, late, for others, or speaks for what is gone, is refused.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::*;

/// Objects that a test puts and takes away.
#[derive(Default)]
struct World(Mutex<HashMap<Key, Subject>>);

impl Subjects for World {
    fn find(&self, key: Key) -> BoxFuture<'_, Result<Option<Subject>, StoreError>> {
        let found = self.0.lock().unwrap().get(&key).cloned();
        async move { Ok(found) }.boxed()
    }
}

impl World {
    fn put(&self, resource: &str, name: &str, uid: &str, run: Option<u64>, ended: bool) {
        let subject = Subject { uid: uid.into(), run, ended };
        self.0.lock().unwrap().insert(Key::new(resource, "team", name), subject);
    }

    fn take(&self, resource: &str, name: &str) {
        self.0.lock().unwrap().remove(&Key::new(resource, "team", name));
    }
}

struct Fixture {
    tokens: Tokens,
    keys: Keys,
    world: Arc<World>,
}

fn fixture() -> Fixture {
    let clock = Clock::virtual_from("2026-03-01T12:00:00Z".parse().unwrap());
    let keys = Keys::ephemeral(clock.now()).unwrap();
    let world = Arc::new(World::default());
    world.put(SERVICE_ACCOUNTS, "default", "sa-1", None, false);
    world.put(SESSIONS, "a", "s-1", Some(1), false);
    world.put(SESSIONS, "b", "s-2", Some(1), false);
    let tokens = Tokens::new(&keys, Arc::clone(&world) as Arc<dyn Subjects>, clock);
    Fixture { tokens, keys, world }
}

fn request(spec: &Value) -> Result<TokenRequest, TokenError> {
    TokenRequest::from_body("team", "default", &json!({ "spec": spec }))
}

fn bound(kind: &str, name: &str, uid: &str) -> Value {
    let version = if kind == "Session" { "mainstay.dev/v1alpha1" } else { "v1" };
    json!({"boundObjectRef": {"apiVersion": version, "kind": kind, "name": name, "uid": uid}})
}

impl Fixture {
    async fn token(&self, spec: Value) -> String {
        self.tokens.issue(&request(&spec).unwrap()).await.unwrap().token.to_string()
    }

    async fn refusal(&self, token: &str) -> String {
        self.tokens.verify(token).await.unwrap_err().to_string()
    }

    /// A token with our signature over whatever claims.
    fn signed(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({
            "iss": ISSUER, "sub": "system:serviceaccount:team:default", "aud": [AUDIENCE], "jti": "1",
            "iat": self.now(), "nbf": self.now(), "exp": self.now() + 900,
            "mainstay.dev": {"namespace": "team", "serviceaccount": {"name": "default", "uid": "sa-1"}},
        });
        change(&mut claims);
        self.keys.signer().unwrap().sign(claims.to_string().as_bytes()).unwrap()
    }

    fn now(&self) -> i64 {
        self.tokens.clock.now().as_second()
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn header_of(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_good_token_says_who_it_speaks_for() {
    let fixture = fixture();
    let token = fixture.token(bound("Session", "a", "s-1")).await;
    assert!(token.len() < 1000, "{} bytes", token.len());
    assert_eq!(header_of(&token)["alg"], "ES256");
    for _ in 0..3 {
        let who = fixture.tokens.verify(&token).await.unwrap();
        assert_eq!((who.user(), who.uid()), ("system:serviceaccount:team:default", "sa-1"));
        assert_eq!(who.groups(), ["system:authenticated", "system:serviceaccounts", "system:serviceaccounts:team"]);
        assert_eq!(who.extra()["session-uid"], ["s-1"]);
        let session = who.session().unwrap();
        assert_eq!((&*session.namespace, &*session.name, &*session.uid), ("team", "a", "s-1"));
    }
    let plain = fixture.token(json!({})).await;
    assert!(fixture.tokens.verify(&plain).await.unwrap().session().is_none());
    assert_ne!(plain, fixture.token(json!({})).await, "each has an id of its own");
}

/// R42.
#[tokio::test(start_paused = true)]
async fn forged_tokens_are_refused() {
    let fixture = fixture();
    let good = fixture.token(bound("Session", "a", "s-1")).await;
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let with_header = |change: &dyn Fn(&mut Value)| {
        let mut header = header_of(&good);
        change(&mut header);
        format!("{}.{payload}.{signature}", encode(&header))
    };
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    claims["mainstay.dev"]["bound"]["name"] = "b".into();
    let other = self::fixture();
    let foreign = other.token(json!({})).await;
    let forged = [
        format!("{}.{payload}.", encode(&json!({"alg": "none", "typ": "JWT"}))),
        with_header(&|header| header["alg"] = "none".into()),
        with_header(&|header| header["alg"] = "HS256".into()),
        with_header(&|header| header["kid"] = "other".into()),
        with_header(&|header| header["typ"] = "at+jwt".into()),
        with_header(&|header| header["jku"] = "https://example.org/keys".into()),
        with_header(&|header| header["crit"] = json!(["b64"])),
        format!("{header}.{}.{signature}", encode(&claims)),
        format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode([0u8; 64])),
        format!("{header}.{payload}."),
        format!("{header}.{payload}"),
        format!("{good}.x"),
        format!("{good}="),
        format!(" {good}"),
        foreign,
        String::new(),
        "..".to_owned(),
        "a".repeat(1024 * 1024),
        format!("{header}.{}.{signature}", "A".repeat(1024 * 1024)),
    ];
    for token in &forged {
        assert_eq!(fixture.refusal(token).await, "the token is not valid for this server", "{token:.80}");
    }
    for cut in 0..good.len() {
        assert!(fixture.tokens.verify(&good[..cut]).await.is_err(), "cut at {cut}");
    }
    for index in (0..good.len()).step_by(7) {
        let mut bytes = good.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(fixture.tokens.verify(&changed).await.is_err(), "byte {index}");
    }
    assert!(fixture.tokens.verify(&good).await.is_ok(), "the good one still is");
}

#[tokio::test(start_paused = true)]
async fn claims_of_others_are_refused_even_under_our_signature() {
    let fixture = fixture();
    assert!(fixture.tokens.verify(&fixture.signed(|_| {})).await.is_ok());
    let table: [(&str, Value, &str); 10] = [
        ("/iss", json!("https://elsewhere"), "not valid for this server"),
        ("/aud", json!(["other"]), "another audience"),
        ("/aud", json!([]), "another audience"),
        ("/aud", json!("mainstay"), "not valid for this server"),
        ("/exp", json!(fixture.now()), "expired"),
        ("/exp", json!(fixture.now() - 1), "expired"),
        ("/exp", json!("never"), "not valid for this server"),
        ("/nbf", json!(fixture.now() + LEEWAY_SECONDS + 1), "not valid yet"),
        ("/mainstay.dev/serviceaccount/uid", json!("sa-0"), "service account is gone"),
        ("/mainstay.dev", json!({}), "not valid for this server"),
    ];
    for (pointer, value, words) in table {
        let token = fixture.signed(|claims| *claims.pointer_mut(pointer).unwrap() = value.clone());
        let text = fixture.refusal(&token).await;
        assert!(text.contains(words), "{pointer} = {value}: {text}");
    }
    let soon = fixture.signed(|claims| claims["nbf"] = (fixture.now() + LEEWAY_SECONDS).into());
    assert!(fixture.tokens.verify(&soon).await.is_ok(), "clocks differ a little");
}

#[tokio::test(start_paused = true)]
async fn a_token_ends_to_the_second() {
    let fixture = fixture();
    for (spec, seconds) in [(json!({}), 900), (json!({"expirationSeconds": 600}), 600)] {
        let token = fixture.token(spec).await;
        tokio::time::advance(Duration::from_secs(seconds - 1)).await;
        assert!(fixture.tokens.verify(&token).await.is_ok(), "a second before");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(fixture.refusal(&token).await, "the token has expired");
        assert_eq!(fixture.tokens.known.len(), 0, "and is forgotten");
    }
}

/// R42: dead with its session.
#[tokio::test(start_paused = true)]
async fn a_token_dies_with_what_it_is_bound_to() {
    let fixture = fixture();
    let (world, tokens) = (&fixture.world, &fixture.tokens);
    let token = fixture.token(bound("Session", "a", "s-1")).await;
    assert!(tokens.verify(&token).await.is_ok());

    world.put(SESSIONS, "a", "s-1", Some(1), true);
    assert!(fixture.refusal(&token).await.contains("run is over"));
    world.put(SESSIONS, "a", "s-1", Some(2), false);
    assert!(fixture.refusal(&token).await.contains("run is over"), "a token of run 1 is no good in run 2");
    world.put(SESSIONS, "a", "s-9", Some(1), false);
    assert!(fixture.refusal(&token).await.contains("gone"), "another session of the same name");
    world.take(SESSIONS, "a");
    assert!(fixture.refusal(&token).await.contains("gone"));
    world.put(SESSIONS, "a", "s-1", Some(1), false);
    assert!(tokens.verify(&token).await.is_ok());
    world.put(SERVICE_ACCOUNTS, "default", "sa-2", None, false);
    assert!(fixture.refusal(&token).await.contains("service account is gone"));
    world.take(SERVICE_ACCOUNTS, "default");
    assert!(fixture.refusal(&token).await.contains("service account is gone"));

    world.put(SERVICE_ACCOUNTS, "default", "sa-1", None, false);
    for (kind, resource) in [("Pod", "/pods"), ("Secret", "/secrets")] {
        world.put(resource, "x", "x-1", None, false);
        let token = fixture.token(bound(kind, "x", "x-1")).await;
        let who = tokens.verify(&token).await.unwrap();
        assert!(who.session().is_none());
        world.take(resource, "x");
        assert!(fixture.refusal(&token).await.contains("gone"), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_issued_for_what_is_not_there() {
    let fixture = fixture();
    fixture.world.put(SESSIONS, "done", "s-3", Some(1), true);
    let table = [
        (bound("Session", "a", "s-0"), "not valid"),
        (bound("Session", "missing", "s-1"), "mainstay.dev/sessions \"missing\" not found"),
        (bound("Session", "done", "s-3"), "not valid"),
        (bound("Pod", "missing", "p"), "pods \"missing\" not found"),
    ];
    for (spec, words) in table {
        let text = fixture.tokens.issue(&request(&spec).unwrap()).await.unwrap_err().to_string();
        assert!(text.contains(words), "{spec}: {text}");
    }
    fixture.world.take(SERVICE_ACCOUNTS, "default");
    let error = fixture.tokens.issue(&request(&json!({})).unwrap()).await.unwrap_err();
    assert!(matches!(error, TokenError::NotFound(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn wrong_requests_name_the_field() {
    let many: Vec<String> = (0..9).map(|number| number.to_string()).collect();
    let table = [
        (json!({"expirationSeconds": 599}), "spec.expirationSeconds"),
        (json!({"expirationSeconds": 3601}), "spec.expirationSeconds"),
        (json!({"expirationSeconds": "600"}), "spec.expirationSeconds"),
        (json!({"expirationSeconds": 1e300}), "spec.expirationSeconds"),
        (json!({"audiences": "mainstay"}), "spec.audiences"),
        (json!({"audiences": [1]}), "spec.audiences[0]"),
        (json!({"audiences": [""]}), "spec.audiences[0]"),
        (json!({"audiences": ["x".repeat(257)]}), "spec.audiences[0]"),
        (json!({"audiences": many}), "spec.audiences"),
        (json!({"boundObjectRef": {"kind": "Session", "name": "a"}}), "spec.boundObjectRef.kind"),
        (json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Node", "name": "a"}}), "spec.boundObjectRef.kind"),
        (json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod"}}), "spec.boundObjectRef.name"),
        (
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": 7}}),
            "spec.boundObjectRef.uid",
        ),
        (json!({"boundObjectRef": 7}), "spec.boundObjectRef.kind"),
        (json!([]), "spec"),
    ];
    for (spec, path) in table {
        let Err(TokenError::Request(errors)) = request(&spec) else { panic!("{spec} was accepted") };
        assert!(errors.iter().any(|error| error.path == path), "{spec}: {errors:?}");
    }
    let other = TokenRequest::from_body("team", "default", &json!({"metadata": {"name": "robot"}}));
    assert!(matches!(other, Err(TokenError::Request(_))));
}

#[tokio::test(start_paused = true)]
async fn the_answer_has_the_form_of_a_token_request() {
    let fixture = fixture();
    let request = request(&json!({"expirationSeconds": 600, "audiences": ["mainstay", "vault"]})).unwrap();
    let issued = fixture.tokens.issue(&request).await.unwrap();
    let answer = request.answer(&issued);
    assert_eq!(answer["kind"], "TokenRequest");
    assert_eq!(answer["spec"]["audiences"], json!(["mainstay", "vault"]));
    assert_eq!(answer["status"]["expirationTimestamp"], "2026-03-01T12:10:00Z");
    assert!(fixture.tokens.verify(answer["status"]["token"].as_str().unwrap()).await.is_ok());
    assert!(!format!("{issued:?}").contains(issued.token.as_str()), "a token is not shown by Debug");
    let for_another = self::request(&json!({"audiences": ["vault"]})).unwrap();
    let token = fixture.tokens.issue(&for_another).await.unwrap().token;
    assert!(fixture.refusal(&token).await.contains("another audience"));
}

#[test]
fn what_was_verified_is_remembered_within_bounds() {
    let cache = cache::Cache::new();
    let hash = |number: u32| crate::keys::sha256(&number.to_be_bytes());
    for number in 0..20_000 {
        cache.put(hash(number), number);
        assert_eq!(cache.get(&hash(0)), Some(0), "what is used stays");
        assert!(cache.len() <= 4096);
    }
    assert_eq!(cache.get(&hash(1)), None);
    cache.remove(&hash(0));
    assert_eq!(cache.get(&hash(0)), None);
}

#[test]
fn a_stored_session_is_read_as_far_as_tokens_need() {
    use mainstay_store::{Meta, Object, Revision};
    let object = |resource: &str, body: &str| Object {
        key: Key::new(resource, "team", "a"),
        revision: Revision(1),
        meta: Arc::new(Meta { uid: "u".into(), ..Meta::default() }),
        body: body.to_owned().into(),
    };
    let table = [
        (SESSIONS, r#"{"spec":{"run":1}}"#, None, false),
        (SESSIONS, r#"{"status":{"phase":"Running","run":3,"conditions":[]}}"#, Some(3), false),
        (SESSIONS, r#"{"status":{"phase":"Stopping","run":3}}"#, Some(3), false),
        (SESSIONS, r#"{"status":{"phase":"Stopped","run":3}}"#, Some(3), true),
        (SESSIONS, r#"{"status":{"phase":"Completed"}}"#, None, true),
        (SESSIONS, r#"{"status":{"phase":"Failed"}}"#, None, true),
        (SESSIONS, r#"{"status":{"phase":"Unheard"}}"#, None, true),
        (SESSIONS, "broken", None, true),
        ("/pods", "broken", None, false),
    ];
    for (resource, body, run, ended) in table {
        let expected = Subject { uid: "u".into(), run, ended };
        assert_eq!(subjects::subject(&object(resource, body)), expected, "{resource} {body}");
    }
}

#[tokio::test]
async fn tokens_outlive_a_rotation_and_die_with_the_version_that_signed_them() {
    let fixture = fixture();
    let issue = async || {
        let issued = fixture.tokens.issue(&request(&json!({})).unwrap()).await.unwrap();
        issued.token.to_string()
    };
    let header = |token: &str| token.split_once('.').unwrap().0.to_owned();
    let (old, unseen) = (issue().await, issue().await);
    fixture.tokens.verify(&old).await.unwrap();
    let now = "2026-03-01T12:00:00Z".parse().unwrap();
    assert_eq!(fixture.keys.rotate(crate::keys::KeyName::Tokens, now).await.unwrap(), 2);
    let new = issue().await;
    assert_ne!(header(&new), header(&old));
    for token in [&old, &unseen, &new] {
        fixture.tokens.verify(token).await.unwrap();
    }
    // The signature of one that was seen is remembered; that does not save it.
    fixture.keys.retire(crate::keys::KeyName::Tokens, &[1]).await.unwrap();
    for token in [&old, &unseen] {
        assert!(matches!(fixture.tokens.verify(token).await, Err(TokenError::NotOurs)));
    }
    fixture.tokens.verify(&new).await.unwrap();
}
