//! Worlds, by their seeds: those that are drawn, those that once found a bug, and those that find what was taken away.
//! `MAINSTAY_SEED=N` repeats one, `MAINSTAY_SIM_SEEDS=10000` runs more.

#![expect(clippy::panic, clippy::print_stdout, reason = "tests fail, and say what they found")]

use mainstay_sim::{Broken, Checks, Report, Without, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What it says of a seed that breaks a promise.
fn told(seed: u64, outcome: Result<Report, Broken>) -> Report {
    outcome.unwrap_or_else(|broken| {
        let again = "cargo test --release -p mainstay-sim --test seeds seeds_that_are_drawn";
        panic!("seed {seed} {broken}\nrepeat it: MAINSTAY_SEED={seed} {again}")
    })
}

#[test]
fn seeds_that_are_drawn_break_no_promise() {
    if let Some(seed) = number("MAINSTAY_SEED") {
        let report = told(seed, run(seed, Without::NOTHING));
        report.history.iter().for_each(|line| println!("{line}"));
        return;
    }
    let count = number("MAINSTAY_SIM_SEEDS").unwrap_or(200);
    let first = number("MAINSTAY_SIM_FIRST").unwrap_or(0);
    let (mut revisions, mut took_ms) = (0, 0);
    for seed in first..first + count {
        let report = told(seed, run(seed, Without::NOTHING));
        (revisions, took_ms) = (revisions + report.revision, took_ms + report.took_ms);
    }
    println!("{count} seeds from {first}: {} s of the world, {revisions} revisions", took_ms / 1_000);
}

/// Seeds that found something once, and what that was.
const NAMED: [(u64, &str); 3] = [
    (14, "a lease that is handed back ends no session of who had it"),
    (59, "what a client left says nothing to it, though it is back at the same replica"),
    (284, "the last replica that works keeps the leases that nobody else takes"),
];

#[test]
fn seeds_that_found_something_find_it_no_more() {
    for (seed, what) in NAMED {
        println!("seed {seed}: {what}");
        told(seed, run(seed, Without::NOTHING));
    }
}

/// All of it: who did what, when, and what came of it.
#[test]
fn a_seed_gives_the_same_history_again() {
    for seed in 0..10 {
        let (first, second) = (run(seed, Without::NOTHING).unwrap(), run(seed, Without::NOTHING).unwrap());
        let differs = first.history.iter().zip(&second.history).position(|(first, second)| first != second);
        if let Some(at) = differs {
            panic!("seed {seed}, line {at}:\n{}\n{}", first.history[at], second.history[at]);
        }
        assert_eq!(first, second, "seed {seed}");
    }
}

/// The first seed that misses what was taken away, and the promise that it finds broken.
fn missed(without: Without, promises: &[&str]) {
    for seed in 0..200 {
        if let Err(broken) = run(seed, without) {
            println!("seed {seed} misses it: {}: {}", broken.promise, broken.seen);
            assert!(promises.contains(&broken.promise), "{broken}");
            return;
        }
    }
    panic!("none of 200 seeds misses it");
}

#[test]
fn without_the_fence_a_stale_write_is_found() {
    let checks = Checks { fence: false, ..Checks::ALL };
    missed(Without { checks, ..Without::NOTHING }, &["no write is stale"]);
}

#[test]
fn without_the_settling_of_lost_answers_a_refusal_of_what_was_made_is_found() {
    let checks = Checks { settle: false, ..Checks::ALL };
    let promises = ["what was refused was not made", "a write is made once"];
    missed(Without { checks, ..Without::NOTHING }, &promises);
}

#[test]
fn without_the_voiding_of_late_batches_a_write_that_is_made_twice_is_found() {
    let checks = Checks { void: false, ..Checks::ALL };
    let promises = ["a write is made once", "what was refused was not made"];
    missed(Without { checks, ..Without::NOTHING }, &promises);
}

#[test]
fn without_the_order_of_the_log_a_change_that_is_missed_is_found() {
    let checks = Checks { order: false, ..Checks::ALL };
    let promises = ["watches are complete and in order", "who is told of its write reads it"];
    missed(Without { checks, ..Without::NOTHING }, &promises);
}

#[test]
fn without_the_fence_of_backends_an_effect_that_is_had_twice_is_found() {
    missed(Without { backend_fences: false, ..Without::NOTHING }, &["an effect is had once"]);
}

#[test]
fn without_durability_an_acknowledged_write_that_is_not_there_is_found() {
    let checks = Checks { durable: false, ..Checks::ALL };
    let promises = ["an acknowledged write is there", "who is told of its write reads it"];
    missed(Without { checks, ..Without::NOTHING }, &promises);
}

#[test]
fn without_the_raising_of_terms_one_that_is_given_twice_is_found() {
    let checks = Checks { term: false, ..Checks::ALL };
    missed(Without { checks, ..Without::NOTHING }, &["a term is given once", "one leads at a time"]);
}

#[test]
fn without_a_look_at_who_is_silent_a_lease_that_nobody_takes_is_found() {
    let checks = Checks { still: false, ..Checks::ALL };
    missed(Without { checks, ..Without::NOTHING }, &["somebody leads soon"]);
}

#[test]
fn without_the_expiry_of_claims_an_operation_that_nobody_takes_up_is_found() {
    let checks = Checks { expiry: false, ..Checks::ALL };
    missed(Without { checks, ..Without::NOTHING }, &["everything comes to its end"]);
}
