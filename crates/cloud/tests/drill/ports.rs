//! Each port's verbs, and what can be seen of them.

use std::collections::BTreeSet;

use mainstay_cloud::drill;
use mainstay_cloud::port::{
    Backend as _, Balancer, Compute as _, Dns as _, LoadBalancer as _, Net, Network as _, Record, Rule, Snapshot,
    Storage as _, Task, Volume,
};
use mainstay_testkit::drill_backend::verb::VERBS;

use super::*;

#[tokio::test]
async fn every_verb_has_its_effect_once_and_leaves_nothing() {
    let world = World::new();
    let (compute, network) = (world.gated::<drill::Compute>(), world.gated::<drill::Network>());
    let (storage, dns) = (world.gated::<drill::Storage>(), world.gated::<drill::Dns>());
    let balancing = world.gated::<drill::LoadBalancer>();
    let rule = Rule { network: "n".into(), from: "10.0.0.0/8".into(), port: 443 };
    let record = Record { kind: "A".into(), ttl_seconds: 60, values: vec!["10.0.0.1".into()] };
    let balancer = Balancer { port: 443, targets: vec!["10.0.0.1:80".into()] };
    let task = Task { image: "web".into(), command: vec!["true".into()] };
    for _repeated in 0..2 {
        compute.launch(&key("1", 1), "i", &instance()).await.unwrap();
        compute.stop(&key("2", 1), "i").await.unwrap();
        compute.start(&key("3", 1), "i").await.unwrap();
        let done = compute.run_task(&key("4", 1), "t", &task).await.unwrap();
        assert_eq!(done.resource.unwrap().kind, "task");
        network.create(&key("5", 1), "n", &Net { cidr: "10.0.0.0/8".into() }).await.unwrap();
        network.add_rule(&key("6", 1), "r", &rule).await.unwrap();
        storage.create(&key("7", 1), "v", &Volume { size_bytes: 1 }).await.unwrap();
        let grown = storage.resize(&key("8", 1), "v", &Volume { size_bytes: 2 }).await.unwrap();
        assert_eq!(grown.resource.unwrap().spec["size_bytes"], 2);
        storage.snapshot(&key("9", 1), "s", &Snapshot { volume: "v".into() }).await.unwrap();
        dns.put_record(&key("10", 1), "www.example.org", &record).await.unwrap();
        balancing.deploy(&key("11", 1), "b", &balancer).await.unwrap();
        balancing.update(&key("12", 1), "b", &balancer).await.unwrap();
    }
    assert_eq!(world.backend.inventory().await.unwrap().len(), 7);
    assert_eq!(world.backend.effects().await.unwrap().len(), 12);
    for _repeated in 0..2 {
        compute.delete(&key("undo/1", 2), "i").await.unwrap();
        compute.stop_task(&key("undo/4", 2), "t").await.unwrap();
        network.remove_rule(&key("undo/6", 2), "r").await.unwrap();
        network.delete(&key("undo/5", 2), "n").await.unwrap();
        storage.delete_snapshot(&key("undo/9", 2), "s").await.unwrap();
        storage.delete(&key("undo/7", 2), "v").await.unwrap();
        dns.delete_record(&key("undo/10", 2), "www.example.org").await.unwrap();
        balancing.remove(&key("undo/11", 2), "b").await.unwrap();
    }
    let effects = world.backend.effects().await.unwrap();
    assert_eq!((world.backend.inventory().await.unwrap().len(), effects.len()), (0, VERBS.len()));
    let seen: BTreeSet<_> = effects.iter().map(|effect| (effect.backend.as_str(), effect.verb.as_str())).collect();
    assert_eq!(seen, VERBS.iter().map(|verb| (verb.backend, verb.name)).collect(), "each verb of each port");
}

#[tokio::test]
async fn what_was_done_can_be_seen_by_step_by_name_and_in_the_list() {
    let world = World::new();
    let (compute, network) = (world.gated::<drill::Compute>(), world.gated::<drill::Network>());
    assert_eq!(compute.find("o", "launch").await.unwrap(), None);
    assert_eq!(compute.look("instance", "i").await.unwrap(), None);
    let receipt = compute.launch(&key("launch", 7), "i", &instance()).await.unwrap();
    assert_eq!(compute.find("o", "launch").await.unwrap(), Some(receipt.clone()));
    assert_eq!(compute.find("o", "undo/launch").await.unwrap(), None);
    assert_eq!(compute.look("instance", "i").await.unwrap(), receipt.resource);
    assert_eq!(compute.list().await.unwrap(), Vec::from_iter(receipt.resource.clone()));
    assert_eq!(receipt.resource.unwrap().spec, serde_json::to_value(instance()).unwrap());
    assert_eq!(network.list().await.unwrap(), []);
    compute.ping().await.unwrap();
}
