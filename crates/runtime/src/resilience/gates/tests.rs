use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::Denied;
use super::*;
use crate::failure::{Class, Classify};

const LIMITS: Limits = Limits::of(Duration::from_secs(3));

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the backend is down")]
    Down,
}

impl Classify for Fault {
    fn class(&self) -> Class {
        match self {
            Self::Denied(denied) => denied.class(),
            Self::Down => Class::TRANSIENT,
        }
    }
}

impl CallFailure for Fault {
    fn denied(&self) -> Option<&Denied> {
        match self {
            Self::Denied(denied) => Some(denied),
            Self::Down => None,
        }
    }
}

fn key(class: &'static str, host: &str) -> Key {
    Key { backend: "compute", class, host: host.into() }
}

async fn down() -> Result<(), Fault> {
    Err(Fault::Down)
}

async fn well() -> Result<(), Fault> {
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_sick_host_or_class_does_not_stand_for_others() {
    let gates = Gates::new(8);
    for _ in 0..5 {
        gates.of(&key("launch", "one"), &LIMITS).call(false, down).await.unwrap_err();
    }
    let refused = gates.of(&key("launch", "one"), &LIMITS).call(false, well).await;
    assert!(matches!(refused, Err(Fault::Denied(Denied::Open { .. }))));
    gates.of(&key("read", "one"), &LIMITS).call(false, well).await.unwrap();
    gates.of(&key("launch", "two"), &LIMITS).call(false, well).await.unwrap();
    let states: Vec<_> = gates.view().into_iter().map(|view| (view.key.class, view.state.as_str())).collect();
    assert_eq!(states, [("launch", "open"), ("launch", "closed"), ("read", "closed")]);
}

#[tokio::test(start_paused = true)]
async fn the_gates_of_a_backend_share_its_budget() {
    let gates = Gates::new(64);
    let calls = Arc::new(AtomicUsize::new(0));
    for host in 0..20 {
        let calls = Arc::clone(&calls);
        let counted = move || {
            calls.fetch_add(1, Ordering::Relaxed);
            down()
        };
        gates.of(&key("launch", &host.to_string()), &LIMITS).call(true, counted).await.unwrap_err();
    }
    let repeats = calls.load(Ordering::Relaxed) - 20;
    assert!((10..=12).contains(&repeats), "{repeats} repeats: ten that were saved, and a tenth of the calls");
}

#[tokio::test(start_paused = true)]
async fn gates_that_nobody_uses_are_forgotten_and_open_ones_are_not() {
    let gates = Gates::new(2);
    for _ in 0..5 {
        gates.of(&key("launch", "sick"), &LIMITS).call(false, down).await.unwrap_err();
    }
    for host in 0..10 {
        tokio::time::advance(Duration::from_secs(1)).await;
        gates.of(&key("launch", &host.to_string()), &LIMITS).call(false, well).await.unwrap();
    }
    let hosts: Vec<_> = gates.view().into_iter().map(|view| view.key.host.to_string()).collect();
    assert_eq!(hosts, ["9", "sick"]);
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_counts_failures_is_kept_until_they_are_long_ago() {
    let gates = Gates::new(1);
    for _ in 0..4 {
        gates.of(&key("launch", "failing"), &LIMITS).call(false, down).await.unwrap_err();
    }
    gates.of(&key("launch", "other"), &LIMITS).call(false, well).await.unwrap();
    gates.of(&key("launch", "failing"), &LIMITS).call(false, down).await.unwrap_err();
    let state = |host: &str| gates.view().iter().find(|view| &*view.key.host == host).map(|view| view.state);
    assert_eq!(state("failing"), Some(breaker::State::Open), "the fifth");

    for _ in 0..4 {
        gates.of(&key("launch", "once"), &LIMITS).call(false, down).await.unwrap_err();
    }
    tokio::time::advance(LIMITS.breaker.window * 2).await;
    drop(gates.of(&key("launch", "another"), &LIMITS));
    assert_eq!((state("failing"), state("once")), (Some(breaker::State::Open), None));
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_somebody_has_in_hand_is_not_made_twice() {
    let gates = Gates::new(1);
    let one = gates.of(&key("launch", "one"), &LIMITS);
    let two = gates.of(&key("launch", "two"), &LIMITS);
    assert!(Arc::ptr_eq(&one, &gates.of(&key("launch", "one"), &LIMITS)), "it is not entered yet");
    assert!(Arc::ptr_eq(&two, &gates.of(&key("launch", "two"), &LIMITS)), "the newest, while all others are in use");
    let place = one.bulkhead.enter(None).await.unwrap();
    drop((one, two));
    drop(gates.of(&key("launch", "three"), &LIMITS));
    let hosts: Vec<_> = gates.view().into_iter().map(|view| view.key.host.to_string()).collect();
    assert_eq!(hosts, ["one", "three"], "what was let go of with a place taken, and the newest");
    drop(place);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_does_not_make_the_backend_slow() {
    let gates = Gates::new(1);
    let places = super::super::bulkhead::Settings { places: 1, waiting: 9, wait: Duration::from_secs(10) };
    let gate = gates.of(&key("launch", "busy"), &Limits { bulkhead: places, ..LIMITS });
    let takes_a_second = || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, Fault>(())
    };
    let began = Instant::now();
    let calls = futures::future::join_all((0..10).map(|_| gate.call(false, takes_a_second))).await;
    assert!(calls.iter().all(Result::is_ok) && began.elapsed() == Duration::from_secs(10));
    assert_eq!(gates.view()[0].state, breaker::State::Closed);
}

#[tokio::test(start_paused = true)]
async fn who_listens_hears_which_gate_it_was() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let gates = Gates::new(8).on_change(move |key, change| lock(&hears).push((key.host.to_string(), change.to)));
    for _ in 0..5 {
        gates.of(&key("launch", "one"), &LIMITS).call(false, down).await.unwrap_err();
    }
    assert_eq!(*lock(&heard), [("one".to_owned(), breaker::State::Open)]);
}

/// Each attempt is counted once, by what became of it, and a repeat is no call.
#[tokio::test(start_paused = true)]
async fn what_became_of_calls_is_counted() {
    let gates = Gates::new(8);
    let places = super::super::bulkhead::Settings { places: 1, waiting: 0, wait: Duration::ZERO };
    let limits = Limits { bulkhead: places, ..LIMITS };
    let gate = gates.of(&key("launch", "one"), &limits);
    gate.call(true, well).await.unwrap();
    let held = gate.bulkhead.enter(None).await.unwrap();
    gate.call(false, well).await.unwrap_err();
    drop(held);
    gate.call(true, down).await.unwrap_err();
    let view = || gates.view().remove(0);
    let so_far = Counts { calls: 3, repeats: 2, sick: 3, full: 1, ..Counts::default() };
    assert_eq!((view().counts, view().state), (so_far, breaker::State::Closed));
    gate.call(false, std::future::pending::<Result<(), Fault>>).await.unwrap_err();
    tokio::time::advance(Duration::from_secs(2)).await;
    gate.call(true, well).await.unwrap_err();
    assert_eq!(view().counts, Counts { calls: 5, sick: 4, late: 1, refused: 1, opened: 1, ..so_far });
    assert_eq!((view().state, view().since), (breaker::State::Open, Duration::from_secs(2)));
    assert_eq!(gates.budgets(), [("compute", Budget::MOST - 2)]);
}
