//! What authentication, authorisation and sealing cost, on one thread against a real store.
//!
//! `cargo run --release -p mainstay-apiserver --example auth_bench`

use std::future::Future;
use std::sync::Arc;

use http::Request;
use http::request::Parts;
use mainstay_api::Registry;
use mainstay_apiserver::auth::{Authenticator, Identity};
use mainstay_apiserver::crypt::{Place, Sealer};
use mainstay_apiserver::keys::Keys;
use mainstay_apiserver::rbac::{Attributes, Authorizer, bootstrap};
use mainstay_apiserver::token::{StoreSubjects, TokenRequest, Tokens};
use mainstay_runtime::Clock;
use mainstay_store::{Draft, Key, Meta, Options, SqliteStore, Store, Write};
use serde_json::json;

/// What a step gives.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: u32 = 20_000;
const PROJECTS: usize = 1_000;

#[expect(clippy::print_stdout, reason = "an example that prints figures")]
async fn measure<F: Future<Output = bool>>(what: &str, rounds: u32, work: impl Fn() -> F) {
    let start = tokio::time::Instant::now();
    for _ in 0..rounds {
        assert!(work().await, "{what}");
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
    println!("{what:<58} {each:9.2} us");
}

fn draft(uid: &str, rest: &str) -> Draft {
    let meta = Arc::new(Meta { uid: uid.into(), ..Meta::default() });
    Draft { head: r#"{"metadata":{"resourceVersion":""#.into(), tail: format!(r#""}}{rest}}}"#).into(), meta }
}

async fn create(store: &Arc<dyn Store>, resource: &str, namespace: &str, name: &str, rest: &str) -> Outcome<()> {
    let write = Write::Create { key: Key::new(resource, namespace, name), draft: draft(name, rest) };
    store.write(write).await?;
    Ok(())
}

fn parts(token: &str) -> Outcome<Parts> {
    Ok(Request::builder().header("authorization", format!("Bearer {token}")).body(())?.into_parts().0)
}

const POD: &str =
    r#","spec":{"nodeName":"local","volumes":[{"secret":{"secretName":"x"}}]},"status":{"phase":"Running"}"#;

async fn fill(store: &Arc<dyn Store>) -> Outcome<()> {
    create(store, "/serviceaccounts", "team", "default", "").await?;
    let session = r#","status":{"phase":"Running","run":1}"#;
    create(store, "mainstay.dev/sessions", "team", "a", session).await?;
    for number in 0..PROJECTS {
        let binding = json!({"kind": "ClusterRole", "name": "mainstay:owner"});
        let rest = format!(r#","roleRef":{binding},"subjects":[{{"kind":"User","name":"ann"}}]"#);
        let namespace = format!("team-{number}");
        create(store, "rbac.authorization.k8s.io/rolebindings", &namespace, "owner", &rest).await?;
        create(store, "/pods", &namespace, "pod", POD).await?;
    }
    Ok(())
}

async fn tokens(authenticator: &Authenticator, tokens: &Tokens) -> Outcome<()> {
    let bound = json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "Session", "name": "a"});
    let request = TokenRequest::from_body("team", "default", &json!({"spec": {"boundObjectRef": bound}}))?;
    measure("issue a session's token", 2_000, || async { tokens.issue(&request).await.is_ok() }).await;
    let mut fresh = Vec::new();
    for _ in 0..2_000 {
        fresh.push(parts(&tokens.issue(&request).await?.token)?);
    }
    let next = std::cell::Cell::new(0);
    measure("verify a token, first time", 2_000, || async {
        next.set(next.get() + 1);
        authenticator.authenticate(&fresh[next.get() - 1]).await.is_ok()
    })
    .await;
    measure("verify a token again", ROUNDS, || async { authenticator.authenticate(&fresh[1_999]).await.is_ok() }).await;
    Ok(())
}

async fn rights(store: &Arc<dyn Store>) {
    let authorizer = Authorizer::new(store.clone());
    let what = |namespace, resource, verb| Attributes {
        verb,
        group: "",
        resource,
        namespace,
        name: "pod",
        ..Attributes::default()
    };
    let (ann, controller, node) =
        (Identity::new("ann", [""; 0]), Identity::controller("session-controller"), Identity::node("local"));
    let (mine, pods) = (what("team-500", "secrets", "get"), what("team-500", "pods", "update"));
    let may = async |who: &Identity, what: &Attributes<'_>| authorizer.authorize(who, what).await.is_allowed();
    measure("first decision: load 1,000 bindings and 1,000 Pods", 1, || may(&ann, &mine)).await;
    measure("decision for a member of 1,000 projects", ROUNDS, || may(&ann, &mine)).await;
    measure("decision for a controller", ROUNDS, || may(&controller, &pods)).await;
    measure("decision for the node", ROUNDS, || may(&node, &pods)).await;
    let number = std::cell::Cell::new(0);
    let write = async || {
        number.set(number.get() + 1);
        create(store, "/configmaps", "team", &format!("c{}", number.get()), "").await.is_ok()
    };
    measure("a write", 2_000, write).await;
    measure("a write, then a decision", 2_000, || async { write().await && may(&ann, &mine).await }).await;
}

async fn sealing(keys: &Keys) -> Outcome<()> {
    let sealer = Sealer::new(keys)?;
    let place = Place { group: "", resource: "secrets", namespace: "team", name: "x", uid: "u", field: "data.x" };
    for size in [64, 1024 * 1024] {
        let plain = vec![7; size];
        let envelope = sealer.seal(&place, &plain)?;
        measure(&format!("seal {size} bytes"), 200, || async { sealer.seal(&place, &plain).is_ok() }).await;
        measure(&format!("open {size} bytes"), 200, || async { sealer.open(&place, &envelope).is_ok() }).await;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let clock = Clock::system();
    let store: Arc<dyn Store> = SqliteStore::open(Options::new(dir.path()))?;
    bootstrap(&store, &Registry::standard(), &clock).await?;
    fill(&store).await?;
    let keys = Arc::new(Keys::open_or_create(dir.path(), clock.now())?);
    let path = dir.path().join("admin.kubeconfig");
    keys.write_kubeconfig(&path, "https://127.0.0.1:1")?;
    let text = std::fs::read_to_string(&path)?;
    let admin = parts(text.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap_or_default())?;
    let issuer = Arc::new(Tokens::new(&keys, Arc::new(StoreSubjects::new(store.clone())), clock)?);
    let authenticator = Authenticator::new(keys.clone(), issuer.clone());
    measure("admin token", ROUNDS, || async { authenticator.authenticate(&admin).await.is_ok() }).await;
    tokens(&authenticator, &issuer).await?;
    rights(&store).await;
    sealing(&keys).await
}
