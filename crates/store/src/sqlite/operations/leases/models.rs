//! A lease that expires while its holder renews it and another claims, in thousands of orders of their steps.

use shuttle::{check_random, thread};

use super::*;

const ORDERS: usize = 5_000;
/// In steps of the model's clock.
const EXPIRES: u64 = 1;
const LEASE: u64 = 100;

fn leases() -> Leases {
    let connection = Connection::open_in_memory().unwrap();
    let tables = "CREATE TABLE operations (uid TEXT, attempt INTEGER, state INTEGER);
                  CREATE TABLE lanes (turn INTEGER);";
    connection.execute_batch(tables).unwrap();
    Leases::load(&connection, Clock::system()).unwrap()
}

fn granted(number: u64, expires: Instant) -> Effects {
    let lease = Lease { number, expires: Some(expires), cancelled: false, knew: false };
    Effects { leases: vec![("o".into(), Hold::Granted(lease))], ..Effects::default() }
}

fn attempt(number: u64) -> Attempt {
    Attempt { id: "o".into(), number }
}

/// Whoever is told that it holds the operation, holds it: it is handed over only after that can be told to nobody.
#[test]
fn a_lease_is_renewed_or_handed_over_and_never_both() {
    check_random(
        || {
            let start = Instant::now();
            let at = move |step: u64| start + Duration::from_secs(step);
            let (leases, time) = (Arc::new(leases()), Arc::new(AtomicU64::new(0)));
            leases.publish(granted(1, at(EXPIRES)));
            let holder = {
                let (leases, time) = (Arc::clone(&leases), Arc::clone(&time));
                thread::spawn(move || {
                    let clock = || at(time.load(Ordering::SeqCst));
                    leases.renew_by(clock, &[attempt(1)], Duration::from_secs(LEASE)) == [Renewal::Held]
                })
            };
            let claimer = {
                let (leases, time) = (Arc::clone(&leases), Arc::clone(&time));
                thread::spawn(move || {
                    let now = at(time.load(Ordering::SeqCst));
                    let is_expired = leases.expired(now) == [attempt(1)];
                    if is_expired {
                        leases.publish(granted(2, now + Duration::from_secs(LEASE)));
                    }
                    is_expired
                })
            };
            time.store(EXPIRES, Ordering::SeqCst);
            let (is_held, is_taken) = (holder.join().unwrap(), claimer.join().unwrap());
            assert!(!(is_held && is_taken), "told that it holds what another has");
            let newest = if is_taken { 2 } else { 1 };
            assert!(leases.of(&attempt(newest)).is_some() && leases.of(&attempt(3 - newest)).is_none());
        },
        ORDERS,
    );
}
