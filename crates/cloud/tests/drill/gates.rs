//! What the gates do when the process behind them is sick.

use std::time::Duration;

use mainstay_cloud::drill;
use mainstay_cloud::port::{Backend as _, Compute as _, Dns as _, Network as _, Record};
use mainstay_runtime::failure::{Class, Classify as _};
use mainstay_runtime::resilience::{CallFailure as _, Denied};
use mainstay_runtime::{Tasks, resilience};
use mainstay_testkit::drill_backend::{Fault, On, doubled};

use super::*;

const DOWN: Fault = Fault::Status { code: 503, retry_after_seconds: None };

#[tokio::test]
async fn an_effect_whose_answer_was_lost_is_repeated_and_done_once() {
    let world = World::new();
    world.backend.drill(On::verb("compute", "start"), Fault::Cut, Some(2)).await.unwrap();
    let compute = world.gated::<drill::Compute>();
    compute.launch(&key("launch", 1), "i", &instance()).await.unwrap();
    compute.start(&key("start", 1), "i").await.unwrap();
    assert_eq!(world.backend.arrivals("compute", "start").await.unwrap(), 3);
    assert_eq!(doubled(&world.backend.effects().await.unwrap()), []);
    world.backend.drill(On::verb("compute", "launch"), Fault::Cut, Some(1)).await.unwrap();
    let lost = compute.launch(&key("another", 1), "j", &instance()).await.unwrap_err();
    assert_eq!(lost.class(), Class::Indeterminate, "calls of minutes are left to their operation");
    assert_eq!(world.backend.arrivals("compute", "launch").await.unwrap(), 2);
}

async fn trip(compute: &Resilient<Drill<drill::Compute>>, world: &World) {
    world.backend.drill(On::verb("compute", "stop"), DOWN, None).await.unwrap();
    for at in 0..3 {
        drop(compute.stop(&key(&format!("trip-{at}"), 1), "i").await.unwrap_err());
    }
    world.backend.calm().await.unwrap();
    assert_eq!(world.gate("compute", "effect").0, "open");
}

#[tokio::test]
async fn an_open_breaker_refuses_its_own_class_and_host_only_and_closes_again() {
    let (world, other) = (World::new(), World::new());
    let compute = world.gated::<drill::Compute>();
    compute.launch(&key("launch", 1), "i", &instance()).await.unwrap();
    trip(&compute, &world).await;
    let before = world.backend.arrivals("compute", "start").await.unwrap();
    let refused = compute.start(&key("start", 1), "i").await.unwrap_err();
    assert!(matches!(refused.denied(), Some(Denied::Open { retry_in }) if *retry_in <= Duration::from_secs(30)));
    assert!(matches!(refused.class(), Class::Transient { retry_after: Some(_) }));
    assert_eq!(world.backend.arrivals("compute", "start").await.unwrap(), before, "nothing was sent");

    assert_eq!(compute.list().await.unwrap().len(), 1, "another class");
    compute.launch(&key("second", 1), "j", &instance()).await.unwrap();
    world.gated::<drill::Network>().delete(&key("network", 1), "n").await.unwrap();
    let elsewhere = Resilient::new(other.bare::<drill::Compute>(), Arc::clone(&world.gates));
    elsewhere.delete(&key("elsewhere", 1), "i").await.unwrap();

    skip(tokio::time::sleep(Duration::from_secs(30))).await;
    for (at, state) in [(0, "half-open"), (1, "closed")] {
        compute.stop(&key(&format!("probe-{at}"), 1), "i").await.unwrap();
        assert_eq!(world.gate("compute", "effect").0, state);
    }
}

#[tokio::test]
async fn a_straggler_of_before_does_not_close_a_breaker() {
    let world = World::new();
    let compute = world.gated::<drill::Compute>();
    compute.launch(&key("launch", 1), "i", &instance()).await.unwrap();
    world.backend.drill(On::verb("compute", "start"), Fault::LateAnswer { millis: 2_500 }, Some(1)).await.unwrap();
    let straggler = {
        let compute = compute.clone();
        Tasks::new().spawn("straggler", async move { compute.start(&key("start", 1), "i").await })
    };
    world.backend.arrived("compute", "start", 1).await.unwrap();
    trip(&compute, &world).await;
    straggler.await.unwrap().unwrap();
    assert_eq!(world.gate("compute", "effect"), ("open", 0, 0));
}

#[tokio::test]
async fn what_callers_do_wrong_opens_nothing() {
    let world = World::new();
    let compute = world.gated::<drill::Compute>();
    for at in 0..20 {
        drop(compute.stop(&key(&at.to_string(), 1), "missing").await.unwrap_err());
    }
    assert_eq!(world.gate("compute", "effect"), ("closed", 0, 0));
}

#[tokio::test]
async fn a_stalled_backend_takes_its_places_and_no_more() {
    let world = World::new();
    let dns = world.gated::<drill::Dns>();
    world.backend.drill(On::verb("dns", "put-record"), Fault::Stall, None).await.unwrap();
    let tasks = Tasks::new();
    let put = |at: usize| {
        let dns = dns.clone();
        async move {
            let record = Record { kind: "A".into(), ttl_seconds: 60, values: Vec::new() };
            dns.put_record(&key(&at.to_string(), 1), &format!("name-{at}"), &record).await
        }
    };
    let calls: Vec<_> = (0..20).map(|at| tasks.spawn("call", put(at))).collect();
    world.backend.arrived("dns", "put-record", 10).await.unwrap();
    assert_eq!(world.gate("dns", "effect"), ("closed", 10, 10));
    assert_eq!(denied(put(20).await), Denied::Overloaded, "at once");
    assert_eq!(dns.list().await.unwrap(), [], "looking has places of its own");
    dns.ping().await.unwrap();
    let outcomes = skip(async {
        let mut outcomes = Vec::new();
        for call in calls {
            outcomes.push(call.await.unwrap());
        }
        outcomes
    })
    .await;
    assert!(outcomes.iter().all(Result::is_err), "every call ends");
    assert_eq!(world.gate("dns", "effect"), ("open", 0, 0), "and gives its place back");
    assert_eq!(world.backend.effects().await.unwrap(), []);
}

#[tokio::test]
async fn many_who_ask_how_it_is_are_one_call_which_ends() {
    let world = World::new();
    let compute = world.gated::<drill::Compute>();
    world.backend.drill(On::verb("compute", "ping"), Fault::Stall, None).await.unwrap();
    let tasks = Tasks::new();
    let askers: Vec<_> = (0..20)
        .map(|_| {
            let compute = compute.clone();
            tasks.spawn("asker", async move { compute.ping().await })
        })
        .collect();
    world.backend.arrived("compute", "ping", 1).await.unwrap();
    for asker in askers {
        assert!(matches!(skip(asker).await.unwrap(), Err(CloudError::Unwell)));
    }
    assert_eq!(world.backend.arrivals("compute", "ping").await.unwrap(), 1);
    world.backend.calm().await.unwrap();
    skip(tokio::time::sleep(Duration::from_secs(5))).await;
    compute.ping().await.unwrap();
}

/// Every backend's every class: the numbers are those of the table.
#[tokio::test]
async fn a_gate_has_the_numbers_of_its_class() {
    let world = World::new();
    let stalled = world.gated::<drill::Network>();
    world.backend.drill(On::verb("network", "delete"), Fault::Stall, None).await.unwrap();
    let call = Tasks::new().spawn("call", async move { stalled.delete(&key("delete", 1), "n").await });
    world.backend.arrived("network", "delete", 1).await.unwrap();
    let (outcome, took) = skip(async {
        let began = tokio::time::Instant::now();
        (call.await.unwrap(), began.elapsed())
    })
    .await;
    let limits = mainstay_cloud::limits::network::EFFECT.limits;
    let error = outcome.unwrap_err();
    assert_eq!(error.class(), Class::Indeterminate);
    assert!(resilience::Verdict::of::<(), _>(&Err(error)) == resilience::Verdict::Sick);
    assert!(took >= limits.deadline * 2 && took <= limits.bound(), "{took:?} for three attempts");
    let counts = world.gates.view().remove(0).counts;
    assert_eq!((counts.calls, counts.repeats, counts.late, counts.sick), (1, 2, 3, 3), "and tells that they were late");
}
