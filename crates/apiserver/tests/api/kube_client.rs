//! kube-rs in process: what controllers use.

use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use mainstay_apiserver::{Identity, inprocess};
use serde_json::json;

use crate::harness::{Harness, PATIENCE, configmap, configmaps};

fn api(harness: &Harness) -> Api<ConfigMap> {
    let client = inprocess::client(harness.server.clone(), Identity::admin(), harness.tasks.clone());
    Api::namespaced(client, "default")
}

fn object(name: &str) -> ConfigMap {
    serde_json::from_value(configmap(name)).unwrap()
}

#[tokio::test]
async fn a_watcher_follows_creates_patches_and_deletes() {
    let harness = Harness::new().await;
    let api = api(&harness);
    api.create(&PostParams::default(), &object("a")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut seen = watcher(api.clone(), config).applied_objects().boxed();
        let first = tokio::time::timeout(PATIENCE, seen.try_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.metadata.name.as_deref(), Some("a"));
        let patch = Patch::Merge(json!({"data": {"k": first.metadata.resource_version}}));
        api.patch("a", &PatchParams::default(), &patch).await.unwrap();
        let next = tokio::time::timeout(PATIENCE, seen.try_next()).await.unwrap().unwrap().unwrap();
        assert_ne!(next.metadata.resource_version, first.metadata.resource_version);
    }
    let meta: PartialObjectMeta<ConfigMap> = api.get_metadata("a").await.unwrap();
    assert_eq!(meta.metadata.name.as_deref(), Some("a"));
    assert_eq!(api.list(&ListParams::default().limit(1)).await.unwrap().items.len(), 1);
    api.delete("a", &DeleteParams::foreground()).await.unwrap();
    let finalizers = api.get("a").await.unwrap().metadata.finalizers.unwrap();
    assert_eq!(finalizers, ["foregroundDeletion"]);
}

#[tokio::test]
async fn a_call_that_is_dropped_is_carried_out_all_the_same() {
    let harness = Harness::new().await;
    let api = api(&harness);
    let mut watch = harness.lines(&configmaps("?watch=1")).await;
    {
        // Polled until the client's worker has handed it over, then dropped; the store cannot have answered by then.
        let (params, object) = (PostParams::default(), object("dropped"));
        let mut call = Box::pin(api.create(&params, &object));
        assert!((&mut call).now_or_never().is_none());
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(watch.event().await.1["metadata"]["name"], "dropped");
}
