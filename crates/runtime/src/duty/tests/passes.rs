//! When passes begin and end, in one process.

use super::*;

fn quick(_: usize) -> Duration {
    Duration::ZERO
}

fn failure() -> Result<(), Failure> {
    Err(Failure::new(Class::TRANSIENT, "do what the test asks for"))
}

#[tokio::test(start_paused = true)]
async fn the_first_pass_begins_at_once_and_the_others_when_they_are_due() {
    let world = World::new();
    world.start(&PLAIN, quick);
    assert_eq!(world.log.first(3).await, ["0.0 due 0", "7.0 due 10", "17.0 due 20"]);
    assert_eq!(world.seen().missed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_pass_is_never_overlapped_and_what_it_misses_is_counted_and_not_made_up_for() {
    let world = World::new();
    let (log, first) = (world.log.clone(), AtomicUsize::new(0));
    world.duties.start(&PLAIN, move |tick| {
        let (log, slow) = (log.clone(), first.fetch_add(1, Ordering::Relaxed) == 0);
        async move {
            log.note(format_args!("begins {}", due(&tick)));
            tokio::time::sleep(if slow { 25 * SECOND } else { SECOND }).await;
            log.note(format_args!("ends {}", due(&tick)));
            Ok(())
        }
    });
    let expected = ["0.0 begins 0", "25.0 ends 0", "27.0 begins 30", "28.0 ends 30", "37.0 begins 40"];
    assert_eq!(world.log.first(5).await, expected);
    let seen = world.seen();
    assert_eq!((seen.passes, seen.missed, seen.running), (2, 2, true));
    assert_eq!(seen.busy.as_secs(), 26);
    assert_eq!(seen.last_success.unwrap(), "2026-01-01T00:00:31Z".parse::<Timestamp>().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_duty_that_wants_each_due_time_gets_the_missed_ones_in_order() {
    const EACH: Duty = Duty { missed: Missed::Each, ..PLAIN };
    let world = World::new();
    world.start(&EACH, |number| if number == 0 { 25 * SECOND } else { Duration::ZERO });
    let expected = ["0.0 due 0", "25.0 due 10", "25.0 due 20", "27.0 due 30"];
    assert_eq!(world.log.first(4).await, expected);
    assert_eq!(world.seen().missed, 0);
}

#[tokio::test(start_paused = true)]
async fn passes_begin_within_the_jitter_after_they_are_due_and_not_all_at_once() {
    const JITTERED: Duty = Duty { jitter: 0.2, ..PLAIN };
    let world = World::new();
    let (clock, log) = (world.clock.clone(), world.log.clone());
    world.duties.start(&JITTERED, move |tick| {
        log.note(clock.now().duration_since(tick.due).as_millis());
        async { Ok(()) }
    });
    let lines = world.log.first(201).await;
    // The first began at once: three seconds after a due time.
    let late: Vec<u64> = lines[1..].iter().map(|line| line.split_once(' ').unwrap().1.parse().unwrap()).collect();
    assert!(late.iter().all(|ms| *ms < 2_002), "{late:?}");
    assert!(late.iter().any(|ms| *ms > 1_000) && late.iter().any(|ms| *ms < 1_000), "{late:?}");
}

struct Dropped(Log);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.note("dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_does_not_end_is_dropped_at_its_timeout_and_the_duty_goes_on() {
    const SHORT: Duty = Duty { timeout: Duration::from_secs(5), ..PLAIN };
    let world = World::new();
    let log = world.log.clone();
    world.duties.start(&SHORT, move |tick| {
        log.note(format_args!("due {}", due(&tick)));
        let dropped = Dropped(log.clone());
        async move {
            let _dropped = dropped;
            std::future::pending().await
        }
    });
    let expected = ["0.0 due 0", "5.0 dropped", "7.0 due 10", "12.0 dropped", "17.0 due 20"];
    assert_eq!(world.log.first(5).await, expected);
    assert_eq!((world.seen().failures, world.seen().last_success), (BTreeMap::from([("Indeterminate", 2)]), None));
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_fails_or_panics_is_counted_by_class_and_the_next_comes_when_it_is_due() {
    let world = World::new();
    let (log, count) = (world.log.clone(), AtomicUsize::new(0));
    world.duties.start(&PLAIN, move |tick| {
        log.note(format_args!("due {}", due(&tick)));
        let number = count.fetch_add(1, Ordering::Relaxed);
        assert!(number != 1, "as asked");
        async move {
            match number {
                0 => failure(),
                2 => panic!("as asked"),
                _ => {
                    tokio::time::sleep(SECOND).await;
                    Ok(())
                }
            }
        }
    });
    let expected = ["0.0 due 0", "7.0 due 10", "17.0 due 20", "27.0 due 30", "37.0 due 40"];
    assert_eq!(world.log.first(5).await, expected);
    let seen = world.seen();
    assert_eq!(seen.failures, BTreeMap::from([("Transient", 1), ("Panicked", 2)]));
    assert_eq!(seen.last_success.unwrap(), "2026-01-01T00:00:31Z".parse::<Timestamp>().unwrap());
    assert!(!world.tasks.stopping().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_duty_with_back_off_comes_again_when_that_says_until_it_succeeds() {
    const PATIENT: Duty = Duty { retry: Retry::BackOff, ..PLAIN };
    let world = World::new();
    let (log, count) = (world.log.clone(), AtomicUsize::new(0));
    world.duties.start(&PATIENT, move |tick| {
        log.note(format_args!("due {}", due(&tick)));
        let fails = count.fetch_add(1, Ordering::Relaxed) < 6;
        async move { if fails { failure() } else { Ok(()) } }
    });
    let lines = world.log.first(8).await;
    let at: Vec<f64> = lines.iter().map(|line| line.split_once(' ').unwrap().0.parse().unwrap()).collect();
    for (pair, full) in at.windows(2).zip([2.0, 4.0, 8.0, 16.0, 30.0, 30.0]) {
        let pause = pair[1] - pair[0];
        assert!((full / 2.0 - 0.1..=full + 0.1).contains(&pause), "{pause} of {full}: {lines:?}");
    }
    assert_eq!(lines[1].split_once(' ').unwrap().1, "due 0", "it was not done yet");
    assert!(at[7] - at[6] <= 10.1, "after a success it is due as always: {lines:?}");
    assert!((at[7] + 3.0).rem_euclid(10.0) < 0.1, "{lines:?}");
    let dues: Vec<u64> = lines.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    let passed_over = dues.windows(2).map(|pair| ((pair[1] - pair[0]) / 10).saturating_sub(1)).sum::<u64>();
    assert_eq!(world.seen().missed, passed_over, "dues that went by during the longer pauses: {lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_due_time_of_a_duty_that_wants_each_is_repeated_until_it_is_done() {
    const EACH: Duty = Duty { missed: Missed::Each, ..PLAIN };
    let world = World::new();
    let (log, count) = (world.log.clone(), AtomicUsize::new(0));
    world.duties.start(&EACH, move |tick| {
        log.note(format_args!("due {}", due(&tick)));
        let fails = count.fetch_add(1, Ordering::Relaxed) == 1;
        async move { if fails { failure() } else { Ok(()) } }
    });
    let expected = ["0.0 due 0", "7.0 due 10", "17.0 due 10", "17.0 due 20", "27.0 due 30"];
    assert_eq!(world.log.first(5).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_neither_stops_a_duty_nor_repeats_a_due_time() {
    let world = World::new();
    world.start(&PLAIN, quick);
    world.log.first(2).await;
    world.clock.set_forward(jiff::SignedDuration::from_secs(-3_600));
    assert_eq!(world.log.first(4).await[2..], ["17.0 due 20", "27.0 due 30"]);
    assert_eq!(world.seen().missed, 0);
    world.clock.set_forward(jiff::SignedDuration::from_secs(7_200));
    assert_eq!(world.log.first(5).await[4], "37.0 due 3640");
    assert_eq!(world.seen().missed, 360, "it cannot be told from a machine that slept");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_pass_between_two_effects_and_is_joined() {
    let world = World::new();
    let log = world.log.clone();
    world.duties.start(&PLAIN, move |tick| {
        let log = log.clone();
        async move {
            for effect in ["one", "two", "three"] {
                tick.check()?;
                tokio::time::sleep(2 * SECOND).await;
                log.note(effect);
            }
            Ok(())
        }
    });
    world.log.first(1).await;
    world.tasks.shutdown(5 * SECOND).await.unwrap();
    assert_eq!(world.log.all(), ["2.0 one", "4.0 two"], "the effect under way is finished, and no other begun");
    let seen = world.seen();
    assert_eq!((seen.passes, seen.failures.len(), seen.running), (1, 0, false));
}

#[tokio::test(start_paused = true)]
async fn a_tick_is_named_after_its_duty_and_due_time_wherever_it_runs() {
    let world = World::new();
    let log = world.log.clone();
    world.duties.start(&PLAIN, move |tick| {
        log.note(format_args!("{} {}", tick.key, tick.term));
        async { Ok(()) }
    });
    assert_eq!(world.log.first(1).await, ["0.0 plain/2026-01-01T00:00:00Z 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_duty_that_runs_already_is_not_started_again() {
    let world = World::new();
    world.start(&PLAIN, quick);
    world.start(&PLAIN, quick);
    assert_eq!(world.log.first(3).await, ["0.0 due 0", "7.0 due 10", "17.0 due 20"]);
    assert_eq!(world.duties.seen().len(), 1);
}
