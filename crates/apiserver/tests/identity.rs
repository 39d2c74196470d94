//! R42, R49, R51 over a real store: a session's token from its issue to its death.

#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use std::sync::Arc;

use http::Request;
use http::request::Parts;
use mainstay_api::Registry;
use mainstay_apiserver::auth::{AuthError, Authenticator, Identity};
use mainstay_apiserver::keys::Keys;
use mainstay_apiserver::rbac::{Attributes, Authorizer, bootstrap};
use mainstay_apiserver::token::{StoreSubjects, TokenRequest, Tokens};
use mainstay_runtime::Clock;
use mainstay_store::{Draft, Key, Meta, Object, Options, SqliteStore, Store, Write};
use serde_json::json;

struct World {
    store: Arc<dyn Store>,
    tokens: Arc<Tokens>,
    authenticator: Authenticator,
    authorizer: Authorizer,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let store: Arc<dyn Store> = SqliteStore::open(Options::new(dir.path())).unwrap();
    bootstrap(&store, &Registry::standard(), &clock).await.unwrap();
    let keys = Arc::new(Keys::ephemeral(clock.now()).unwrap());
    let tokens = Arc::new(Tokens::new(&keys, Arc::new(StoreSubjects::new(store.clone())), clock));
    let authenticator = Authenticator::new(keys, tokens.clone());
    World { authorizer: Authorizer::new(store.clone()), store, tokens, authenticator, _dir: dir }
}

fn draft(uid: &str, rest: &str) -> Draft {
    let meta = Arc::new(Meta { uid: uid.into(), ..Meta::default() });
    Draft {
        head: r#"{"metadata":{"resourceVersion":""#.into(),
        tail: format!(r#""}}{rest}}}"#).into(),
        meta,
        queued: None,
    }
}

impl World {
    async fn create(&self, resource: &str, name: &str, uid: &str, rest: &str) -> Arc<Object> {
        let key = Key::new(resource, "team", name);
        self.store.write(Write::Create { key, draft: draft(uid, rest), requires: None }).await.unwrap()
    }

    async fn update(&self, old: &Object, rest: &str) -> Arc<Object> {
        let draft = draft(&old.meta.uid, rest);
        self.store.write(Write::Update { key: old.key.clone(), draft, expected: old.revision }).await.unwrap()
    }

    async fn delete(&self, old: &Object) {
        let draft = draft(&old.meta.uid, "");
        self.store.write(Write::Delete { key: old.key.clone(), draft, expected: old.revision }).await.unwrap();
    }

    async fn token(&self, session: &str) -> String {
        let bound = json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "name": session});
        let request = TokenRequest::from_body("team", "default", &json!({"spec": {"boundObjectRef": bound}})).unwrap();
        self.tokens.issue(&request).await.unwrap().token.to_string()
    }

    async fn identity(&self, token: &str) -> Result<Identity, AuthError> {
        self.authenticator.authenticate(&parts(token)).await
    }

    async fn may(&self, who: &Identity, verb: &str, session: &str) -> bool {
        let what = Attributes {
            verb,
            group: "mainstay.dev",
            resource: "sessions",
            subresource: "messages",
            namespace: "team",
            name: session,
            node: "",
            path: "",
        };
        self.authorizer.authorize(who, &what).await.is_allowed()
    }
}

fn parts(token: &str) -> Parts {
    Request::builder().header("authorization", format!("Bearer {token}")).body(()).unwrap().into_parts().0
}

const RUNNING: &str = r#","status":{"phase":"Running","run":1}"#;

#[tokio::test]
async fn a_sessions_token_is_its_own_and_dies_with_it() {
    let world = world().await;
    world.create("/serviceaccounts", "default", "sa", "").await;
    let a = world.create("mainstay.dev/sessions", "a", "uid-a", RUNNING).await;
    let b = world.create("mainstay.dev/sessions", "b", "uid-b", RUNNING).await;
    let (token_a, token_b) = (world.token("a").await, world.token("b").await);

    let who = world.identity(&token_a).await.unwrap();
    for verb in ["get", "create"] {
        assert!(world.may(&who, verb, "a").await && !world.may(&who, verb, "b").await, "{verb}");
    }
    let a = world.update(&a, r#","status":{"phase":"Stopping","run":1}"#).await;
    assert!(world.identity(&token_a).await.is_ok(), "its last messages are still taken");
    let a = world.update(&a, r#","status":{"phase":"Stopped","run":1}"#).await;
    let error = world.identity(&token_a).await.unwrap_err().to_string();
    assert!(error.contains("run is over"), "{error}");
    let a = world.update(&a, r#","status":{"phase":"Pending","run":2}"#).await;
    assert!(world.identity(&token_a).await.is_err(), "the next run has a token of its own");
    let second = world.token("a").await;
    assert!(world.identity(&second).await.is_ok() && world.identity(&token_b).await.is_ok());

    world.delete(&a).await;
    assert!(world.identity(&second).await.is_err(), "dead with its session");
    world.create("mainstay.dev/sessions", "a", "uid-a2", RUNNING).await;
    assert!(world.identity(&second).await.is_err(), "a later session of the same name is another one");
    assert!(world.identity(&token_b).await.is_ok(), "and the neighbour goes on");
    world.delete(&b).await;
    assert!(world.identity(&token_b).await.is_err());
}
