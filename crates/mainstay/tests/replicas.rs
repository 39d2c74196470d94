//! Three servers over one PostgreSQL: real processes, killed, frozen and stopped.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "replicas/fleet.rs"]
mod fleet;
#[path = "replicas/quota.rs"]
mod quota;
#[path = "replicas/upgrade.rs"]
mod upgrade;

use std::time::Duration;

use fleet::{Fleet, PATIENCE};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, PostParams};
use serde_json::json;
use tokio::time::Instant;

/// The lease of a controller that always runs.
const LEASE: &str = "namespace";
/// A host that is silent is followed within this.
const SILENT: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread")]
async fn any_replica_accepts_any_token_and_shows_what_any_other_wrote() {
    let fleet = Fleet::start(3);
    for (at, writer) in fleet.servers.iter().enumerate() {
        let name = format!("from-{at}");
        fleet::apply(writer, &fleet::config_map(&name));
        for (reader_at, reader) in fleet.servers.iter().enumerate() {
            // The first server's credentials are good everywhere.
            let client = fleet.client_of(0, reader);
            fleet::until(|| {
                let (client, name) = (client.clone(), name.clone());
                async move { fleet::has_config_map(&client, &name).await }
            })
            .await
            .unwrap_or_else(|| panic!("{name} is not at {reader_at}"));
        }
    }
}

/// A client need not wait until its next request, which another replica answers, finds the namespace that it has just made.
#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_in_a_new_namespace_can_be_made_at_any_replica_at_once() {
    let fleet = Fleet::start_with(3, &["--role", "api"]);
    let clients: Vec<kube::Client> = fleet.servers.iter().map(|server| fleet.client_of(0, server)).collect();
    let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "first" } })).unwrap();
    for round in 0..30 {
        let name = format!("new-{round}");
        let new = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        let (one, other) = (&clients[round % 3], &clients[(round + 1 + round / 15) % 3]);
        Api::<Namespace>::all(one.clone()).create(&PostParams::default(), &new).await.unwrap();
        let made = Api::<ConfigMap>::namespaced(other.clone(), &name).create(&PostParams::default(), &map).await;
        made.unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    let nowhere =
        Api::<ConfigMap>::namespaced(clients[1].clone(), "nowhere").create(&PostParams::default(), &map).await;
    assert!(matches!(nowhere, Err(kube::Error::Api(status)) if status.code == 404));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_is_followed_at_once_and_nothing_it_began_is_left_undone() {
    let mut fleet = Fleet::start(3);
    for round in 0..2 {
        let leader = fleet.leader(LEASE);
        let before = fleet.term(LEASE);
        fleet.servers[leader].kill9().unwrap();
        let killed = Instant::now();
        let after = fleet.next_term(LEASE, before);
        println!("the lease went on {} ms after the kill", killed.elapsed().as_millis());
        assert!(after > before);
        // What a controller does goes on: a project gets its namespace, and loses it.
        let alive = (leader + 1) % 3;
        let name = format!("team-{round}");
        fleet::apply(&fleet.servers[alive], &fleet::project(&name));
        let client = fleet.client_of(alive, &fleet.servers[alive]);
        let made = fleet::until(|| {
            let (client, name) = (client.clone(), name.clone());
            async move { fleet::has_namespace(&client, &name).await }
        });
        made.await.expect("the namespace comes");
        fleet.servers[leader].restart().unwrap();
    }
    fleet.terms_only_grew();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_is_followed_and_writes_nothing_when_it_wakes() {
    let fleet = Fleet::start(2);
    let leader = fleet.leader(LEASE);
    let (before, held) = (fleet.term(LEASE), fleet.held_by(leader));
    fleet.freeze(leader);
    let frozen = Instant::now();
    let after = fleet.next_term(LEASE, before);
    let took = frozen.elapsed();
    println!("the lease went on {} ms after the leader froze", took.as_millis());
    assert!(after > before && took <= SILENT + Duration::from_secs(2), "it took {took:?}");
    fleet.thaw(leader);
    // It hears of it, and stops leading; what it had not done by then the other does.
    let log = || fleet.servers[leader].log_text();
    let told = fleet::until(|| async { log().contains("the term is over") }).await;
    told.unwrap_or_else(|| panic!("it held {held:?} and does not say that it is over:\n{}", log()));
    fleet::apply(&fleet.servers[leader], &fleet::project("later"));
    let client = fleet.client_of(leader, &fleet.servers[leader]);
    let made = fleet::until(|| {
        let client = client.clone();
        async move { fleet::has_namespace(&client, "later").await }
    });
    made.await.expect("the namespace comes");
    fleet.terms_only_grew();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_stopped_hands_its_leases_back() {
    let mut fleet = Fleet::start(2);
    let leader = fleet.leader(LEASE);
    let before = fleet.term(LEASE);
    let stopped = Instant::now();
    fleet.servers[leader].stop().unwrap();
    let after = fleet.next_term(LEASE, before);
    assert!(after > before && stopped.elapsed() < PATIENCE);
    fleet::apply(&fleet.servers[1 - leader], &fleet::project("after"));
    fleet.terms_only_grew();
}
