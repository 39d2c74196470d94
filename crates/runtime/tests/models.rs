//! The machines of `resilience`, in thousands of orders of their steps (<https://docs.rs/shuttle>).
//!
//! `cargo test --release -p mainstay-runtime --features shuttle --test models`
#![expect(clippy::unwrap_used, reason = "a model that cannot go on has failed")]

use std::future::Future;
use std::task::{Context, Waker};
use std::time::Duration;

use mainstay_runtime::resilience::Verdict;
use mainstay_runtime::resilience::breaker::{self, Breaker, State};
use mainstay_runtime::resilience::bulkhead::{self, Bulkhead};
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::{check_random, thread};
use tokio::time::Instant;

const ORDERS: usize = 5_000;

const SETTINGS: breaker::Settings = breaker::Settings {
    window: Duration::from_secs(10),
    at_least: 2,
    failed_percent: 50,
    slow_percent: 100,
    slow: Duration::from_secs(100),
    open_for: Duration::from_secs(1),
    successes: 2,
};

/// However calls interleave, at most one probe is on its way, and stragglers change nothing.
#[test]
fn a_breaker_lets_one_probe_through_at_a_time() {
    check_random(
        || {
            let start = Instant::now();
            let changes = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&changes);
            let breaker = Breaker::new(SETTINGS, start)
                .on_change(move |change| seen.lock().unwrap().push((change.generation, change.from, change.to)));
            let breaker = Arc::new(breaker);
            let straggler = breaker.admit(start).unwrap();
            for _ in 0..2 {
                breaker.admit(start).unwrap().settle(Verdict::Sick, start);
            }
            assert_eq!(breaker.state(), State::Open);
            let later = start + SETTINGS.open_for;
            let probes = Arc::new(AtomicUsize::new(0));
            let callers: Vec<_> = (0..3)
                .map(|_| {
                    let (breaker, probes) = (Arc::clone(&breaker), Arc::clone(&probes));
                    thread::spawn(move || probe_twice(&breaker, &probes, later))
                })
                .collect();
            straggler.settle(Verdict::Sick, later);
            for caller in callers {
                caller.join().unwrap();
            }
            let mut changes = changes.lock().unwrap().clone();
            changes.sort_by_key(|(generation, ..)| *generation);
            assert!(changes.windows(2).all(|pair| pair[0].2 == pair[1].1), "{changes:?}");
            assert!(changes[1..].iter().all(|(.., to)| *to != State::Open), "nothing failed since: {changes:?}");
        },
        ORDERS,
    );
}

fn probe_twice(breaker: &Arc<Breaker>, probes: &AtomicUsize, now: Instant) {
    for _ in 0..2 {
        let Ok(pass) = breaker.admit(now) else { continue };
        if breaker.state() == State::HalfOpen {
            assert_eq!(probes.fetch_add(1, Ordering::SeqCst), 0, "two probes at once");
            thread::yield_now();
            probes.fetch_sub(1, Ordering::SeqCst);
        }
        pass.settle(Verdict::Well, now);
    }
}

/// However callers come, go and give up: never more inside than places, nobody is forgotten, no place is lost.
#[test]
fn a_bulkhead_loses_no_place_and_forgets_nobody() {
    check_random(
        || {
            const PLACES: usize = 2;
            let settings = bulkhead::Settings { places: PLACES, waiting: 8, wait: Duration::from_secs(1) };
            let bulkhead = Arc::new(Bulkhead::new(settings));
            let inside = Arc::new(AtomicUsize::new(0));
            let callers: Vec<_> = (0..4)
                .map(|number| {
                    let (bulkhead, inside) = (Arc::clone(&bulkhead), Arc::clone(&inside));
                    thread::spawn(
                        move || if number == 3 { look_once(&bulkhead) } else { stay(&bulkhead, &inside, PLACES) },
                    )
                })
                .collect();
            for caller in callers {
                caller.join().unwrap();
            }
            assert_eq!(bulkhead.counts(), (PLACES, 0));
        },
        ORDERS,
    );
}

fn stay(bulkhead: &Arc<Bulkhead>, inside: &AtomicUsize, places: usize) {
    let place = shuttle::future::block_on(bulkhead.line_up()).unwrap();
    assert!(inside.fetch_add(1, Ordering::SeqCst) < places, "more inside than there are places");
    thread::yield_now();
    inside.fetch_sub(1, Ordering::SeqCst);
    drop(place);
}

/// Looks once, and goes away, maybe with a place that it does not know of.
fn look_once(bulkhead: &Arc<Bulkhead>) {
    let mut line = Box::pin(bulkhead.line_up());
    let looked = line.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    thread::yield_now();
    drop(looked);
}
