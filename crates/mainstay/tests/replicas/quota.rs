//! A quota holds over all replicas, however many create at once.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, Error, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::fleet::{self, Fleet};

/// So many may be there.
const ROOM: usize = 20;
/// So many try.
const CREATORS: usize = 90;

fn quota() -> String {
    let hard = json!({ "count/configmaps": ROOM.to_string(), "limits.cpu": "5" });
    json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "few", "namespace": "crowd" },
        "spec": { "hard": hard },
    })
    .to_string()
}

/// Creates all at once, spread over the replicas; how many were accepted. The others were refused for the quota.
async fn accepted<K>(clients: &[Client], objects: Vec<Value>) -> usize
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    K::DynamicType: Default,
{
    let create = |(at, object): (usize, Value)| {
        let api = Api::<K>::namespaced(clients[at % clients.len()].clone(), "crowd");
        async move { api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await }
    };
    let mut count = 0;
    for made in join_all(objects.into_iter().enumerate().map(create)).await {
        let refused = matches!(&made, Err(Error::Api(status)) if status.code == 403
            && status.message.contains("exceeded quota: few"));
        assert!(made.is_ok() || refused, "{made:?}");
        count += usize::from(made.is_ok());
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_create_at_once_at_three_replicas_as_many_are_accepted_as_there_is_room() {
    // Nothing that is made here runs, or ends.
    let fleet = Fleet::start_with(3, &["--role", "api"]);
    let clients: Vec<Client> = fleet.servers.iter().map(|server| fleet.client_of(0, server)).collect();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "crowd" } });
    fleet::apply(&fleet.servers[0], &namespace.to_string());
    fleet::apply(&fleet.servers[0], &quota());
    for client in &clients {
        let seen = fleet::until(|| {
            let quotas = Api::<ResourceQuota>::namespaced(client.clone(), "crowd");
            async move { quotas.get_opt("few").await.is_ok_and(|found| found.is_some()) }
        });
        seen.await.expect("each replica hears of the quota");
    }
    let maps = Api::<ConfigMap>::namespaced(clients[0].clone(), "crowd");
    let there = maps.list(&ListParams::default()).await.unwrap().items.len();
    let map = |round: usize, number: usize| json!({ "metadata": { "name": format!("m{round}-{number}") } });
    let made = accepted::<ConfigMap>(&clients, (0..CREATORS).map(|number| map(0, number)).collect()).await;
    assert_eq!(made, ROOM - there);
    let all = maps.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(all.len(), ROOM);
    // What is given back can be used again, once.
    for gone in all.iter().filter_map(|map| map.metadata.name.as_deref()).filter(|name| name.starts_with('m')).take(3) {
        maps.delete(gone, &DeleteParams::default()).await.unwrap();
    }
    let made = accepted::<ConfigMap>(&clients, (0..CREATORS).map(|number| map(1, number)).collect()).await;
    assert_eq!(made, 3);
    // A sum is as exact as a number.
    let pod = |number: usize| {
        json!({
            "metadata": { "name": format!("p{number}") },
            "spec": { "restartPolicy": "Never", "containers": [{
                "name": "agent", "command": ["true"], "resources": { "limits": { "cpu": "700m" } },
            }] },
        })
    };
    assert_eq!(accepted::<Pod>(&clients, (0..CREATORS).map(pod).collect()).await, 7);
}
