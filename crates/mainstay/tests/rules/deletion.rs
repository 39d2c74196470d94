//! What a deletion takes along, and what it leaves alone.

use super::*;
use mainstay_testkit::crash::leftovers;
use serde_json::json;
use world::{TEAM, World, core_path, path, project_path};

const IDLES: &str = "echo up; exec sleep 1000";

/// R7, R39: a deleted session takes its Pods, sandbox, messages and kept workspace along, and leaves its namespace and
/// everything else in it alone.
#[tokio::test(flavor = "multi_thread")]
async fn r39_a_deleted_session_leaves_its_namespace_alone() {
    let world = World::new(json!({})).await;
    world.create(&core_path("configmaps", ""), json!({ "metadata": { "name": "mine" } })).await;
    for name in ["goes", "stays"] {
        world.script(name, IDLES, json!({ "workspace": { "keep": true } })).await;
        world.said(name, 1, "up").await;
    }
    world.remove(&path("sessions", "goes")).await;
    world.quiet("goes").await;
    assert!(world.get(&core_path("pods", "goes-1")).await.is_none());
    assert!(world.get(&path("sessions", "goes/messages")).await.is_none());
    let namespace = world.get(&format!("/api/v1/namespaces/{TEAM}")).await.unwrap();
    assert_eq!(namespace["status"]["phase"], "Active", "{namespace:#}");
    assert!(world.get(&core_path("configmaps", "mine")).await.is_some());
    assert!(world.get(&core_path("serviceaccounts", "default")).await.is_some());
    world.first("stays", "Running").await;
    assert!(!world.agents("stays").is_empty());
    // A session of the same name is another one: it begins at run 1 with no message.
    world.script("goes", "ls -A /workspace | grep -v lost.found; echo new", json!({})).await;
    world.first("goes", "Completed").await;
    assert_eq!(world.texts("goes", "agent", 1).await, ["new"]);
    world.remove(&path("sessions", "goes")).await;
    world.remove(&path("sessions", "stays")).await;
    leftovers::none(&world.server.data_dir(), world.server.pid()).await.unwrap();
}

/// R4, R7, R39: a deleted project takes everything of its own along, in order, and nothing of another's.
/// R11.
#[tokio::test(flavor = "multi_thread")]
async fn r4_a_deleted_project_is_torn_down_and_nothing_else() {
    let world =
        World::new(json!({ "members": [{ "name": "ann", "role": "editor" }], "quota": { "running": 9 } })).await;
    world.project("other", json!({})).await;
    let others = "/apis/mainstay.dev/v1alpha1/namespaces/other/sessions";
    let command = json!(["/bin/sh", "-c", IDLES]);
    world.create(others, json!({ "metadata": { "name": "s" }, "spec": { "command": command } })).await;
    let running = async || world.get(&format!("{others}/s")).await.unwrap()["status"]["phase"] == "Running";
    world.until("the other's session Running", running).await;
    world.script("runs", IDLES, json!({ "workspace": { "keep": true } })).await;
    world.script("ends", "exit 0", json!({})).await;
    world.first("runs", "Running").await;
    world.first("ends", "Completed").await;
    let credential = json!({ "metadata": { "name": "git" }, "spec": { "provider": "github", "token": "t" } });
    world.create(&path("credentials", ""), credential).await;
    let agent = json!({ "metadata": { "name": "a" }, "spec": { "command": ["true"] } });
    world.create(&path("agents", ""), agent).await;
    for plural in ["configmaps", "secrets"] {
        world.create(&core_path(plural, ""), json!({ "metadata": { "name": "mine" } })).await;
    }
    world.remove(&project_path(TEAM)).await;
    world.quiet("runs").await;
    assert!(world.get(&format!("/api/v1/namespaces/{TEAM}")).await.is_none());
    for everywhere in [
        "/api/v1/pods",
        "/api/v1/configmaps",
        "/api/v1/secrets",
        "/api/v1/serviceaccounts",
        "/api/v1/resourcequotas",
        "/apis/mainstay.dev/v1alpha1/sessions",
        "/apis/mainstay.dev/v1alpha1/agents",
        "/apis/mainstay.dev/v1alpha1/credentials",
        "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    ] {
        let left = world.get(everywhere).await.unwrap();
        let ours = left["items"].as_array().unwrap().iter().filter(|one| one["metadata"]["namespace"] == TEAM);
        assert_eq!(ours.count(), 0, "{everywhere}: {left:#}");
    }
    assert!(running().await, "the other project's session goes on");
    assert!(world.get("/api/v1/namespaces/other").await.is_some());
    world.remove(&project_path("other")).await;
    leftovers::none(&world.server.data_dir(), world.server.pid()).await.unwrap();
}
