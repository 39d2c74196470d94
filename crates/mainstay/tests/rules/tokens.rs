//! Session tokens: renewed on order and at a start, by rename, and dead with their session.

use super::*;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use mainstay_testkit::crash::client::{Answer, Client};
use serde_json::{Value, json};
use world::{World, core_path, path};

/// Says each token file that it sees: its inode and a sum of its content, both of one open file. The one that it said before
/// stays open, so that its inode is nobody else's.
const WATCHES: &str = "old=; while :; do exec 3< /mainstay/token/token; new=$(stat -c %i - <&3):$(cksum <&3); \
                       [ \"$new\" = \"$old\" ] || { echo \"token $new\"; exec 4<&3; }; old=$new; sleep 0.02; done";

/// R10, R11, R42: an order renews the token at once, the start of a server orders it for every running session, and the file
/// in the sandbox is another one each time: replaced, never written over.
#[tokio::test(flavor = "multi_thread")]
async fn r10_tokens_are_renewed_on_order_and_at_a_start() {
    let mut world = World::new(json!({})).await;
    world.script("s", WATCHES, json!({})).await;
    world.project("other", json!({})).await;
    let other = json!({ "metadata": { "name": "s" }, "spec": { "command": ["sleep", "1000"] } });
    world.create("/apis/mainstay.dev/v1alpha1/namespaces/other/sessions", other).await;
    let running = async || {
        let pod = world.get("/api/v1/namespaces/other/pods/s-1").await;
        pod.is_some_and(|pod| pod["status"]["phase"] == "Running")
    };
    world.until("the other session Running", running).await;
    let heard = async |world: &World, count: u64| {
        let message = world.heard("s", "another token", |one| one["number"] == count).await;
        let text = message["text"].as_str().unwrap().to_owned();
        assert!(text.starts_with("token ") && !text.contains("token :"), "{text}");
        text
    };
    let first = heard(&world, 1).await;
    let now = mainstay_runtime::Clock::system().now().to_string();
    let order = json!({ "metadata": { "annotations": { "mainstay.dev/token-renewal": now } } });
    world.patch(&core_path("pods", "s-1"), &order).await;
    let second = heard(&world, 2).await;
    world.kill();
    world.restart();
    let third = heard(&world, 3).await;
    let renewed = async || {
        let pod = world.get("/api/v1/namespaces/other/pods/s-1").await.unwrap();
        pod["metadata"]["annotations"]["mainstay.dev/token-renewal"].is_string()
    };
    world.until("R11: an order for the other project's session", renewed).await;
    let part = |text: &str, at: usize| text["token ".len()..].split(':').nth(at).unwrap().to_owned();
    for (old, new) in [(&first, &second), (&second, &third)] {
        assert_ne!(part(old, 0), part(new, 0), "the file was written over");
        assert_ne!(part(old, 1), part(new, 1), "the token is the same");
    }
    world.first("s", "Running").await;
}

/// R42, R49: the token in a sandbox opens its own session and nothing else, and is dead once that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn r42_a_sessions_token_is_good_for_that_session_while_it_lives() {
    let world = World::new(json!({})).await;
    world.script("s", "cat /mainstay/token/token; echo; exec sleep 1000", json!({})).await;
    world.script("other", "exec sleep 1000", json!({})).await;
    world.first("other", "Running").await;
    let said = world.heard("s", "its token", |one| one["type"] == "agent").await;
    let token = said["text"].as_str().unwrap().to_owned();
    let kubeconfig = Kubeconfig::read_from(world.server.kubeconfig()).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
    let bound = Client::new(kube::Client::try_from(config).unwrap());
    let code = async |path: &str| match bound.call("GET", path, &Value::Null).await.unwrap() {
        Answer::Done(_) => 200,
        Answer::Refused(code, _) => code,
    };
    assert_eq!(code(&path("sessions", "s")).await, 200);
    assert_eq!(code(&path("sessions", "s/messages")).await, 200);
    for other in [
        path("sessions", ""),
        path("sessions", "other"),
        path("sessions", "other/messages"),
        path("sessions", "other/heartbeat"),
        path("credentials", ""),
        core_path("pods", "s-1"),
        core_path("secrets", ""),
        "/apis/mainstay.dev/v1alpha1/projects".to_owned(),
    ] {
        assert_eq!(code(&other).await, 403, "{other}");
    }
    world.remove(&path("sessions", "s")).await;
    assert_eq!(code(&path("sessions", "s")).await, 401);
}
