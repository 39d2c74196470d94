use super::*;

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

const MINUTE: Duration = Duration::from_mins(1);

fn age(clock: &Clock, stamp: Timestamp) -> i64 {
    let now = clock.now();
    now.duration_since(clock.timeline().rebase(stamp, now)).as_secs()
}

/// R24.
#[tokio::test(start_paused = true)]
async fn a_virtual_clock_moves_with_paused_time() {
    let clock = Clock::virtual_from(start());
    tokio::time::advance(Duration::from_secs(90)).await;
    assert_eq!(clock.now(), start() + Duration::from_secs(90));
}

#[tokio::test(start_paused = true)]
async fn a_moment_comes_though_timers_stand_still_while_the_machine_sleeps() {
    let clock = Clock::virtual_from(start());
    let began = tokio::time::Instant::now();
    let due = clock.since_boot() + MINUTE * 60;
    clock.reach(clock.since_boot() + Duration::from_millis(1_234)).await;
    assert_eq!(began.elapsed(), Duration::from_millis(1_234), "no sooner and no later");
    let sleeper = clock.clone();
    let (late, ()) = tokio::join!(
        async {
            clock.reach(due).await;
            clock.since_boot().checked_sub(due).unwrap()
        },
        async {
            tokio::time::sleep(MINUTE).await;
            sleeper.suspend(MINUTE * 60);
        }
    );
    assert!(began.elapsed() < MINUTE * 2, "{:?} by the timers", began.elapsed());
    assert!(late < MINUTE * 2 + LOOK, "{late:?} late");
    assert_eq!(age(&clock, start()), 61 * 60 + 1, "the wall clock went on meanwhile");
}

#[tokio::test(start_paused = true)]
async fn what_was_stamped_before_the_clock_was_set_is_as_old_as_it_is() {
    for hours in [1, -1, 24, -24] {
        let clock = Clock::virtual_from(start());
        tokio::time::advance(MINUTE * 10).await;
        let before = clock.now();
        tokio::time::advance(MINUTE).await;
        clock.set_forward(SignedDuration::from_hours(hours));
        assert_eq!(age(&clock, before), 60, "set by {hours} h");
        let after = clock.now();
        tokio::time::advance(MINUTE).await;
        assert_eq!((age(&clock, before), age(&clock, after)), (120, 60), "set by {hours} h");
        clock.set_forward(SignedDuration::from_hours(-hours));
        assert_eq!((age(&clock, before), age(&clock, after)), (120, 60), "set by {hours} h and back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_cut_to_whole_seconds_belongs_to_its_side() {
    let clock = Clock::virtual_from(start());
    tokio::time::advance(Duration::from_millis(60_900)).await;
    clock.set_forward(SignedDuration::from_hours(1));
    let cut = Timestamp::from_second(clock.now().as_second()).unwrap();
    tokio::time::advance(MINUTE).await;
    assert_eq!(age(&clock, cut), 60);
}

#[tokio::test(start_paused = true)]
async fn other_boots_times_and_small_corrections_change_nothing() {
    let clock = Clock::virtual_from(start());
    let earlier = start() - MINUTE * 60;
    tokio::time::advance(MINUTE).await;
    clock.set_forward(SignedDuration::from_millis(400));
    assert_eq!(clock.timeline().rebase(earlier, clock.now()), earlier);
    let stamp = clock.now();
    assert_eq!(clock.timeline().rebase(stamp, clock.now()), stamp);
}

#[test]
fn the_timeline_outlives_the_process_within_one_boot() {
    let dir = std::env::temp_dir().join(format!("mainstay-clock-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let file = dir.join("clock");
    let stamp = Clock::kept_in(&file).unwrap().now();

    // Another life of the process finds that the clock was set by an hour meanwhile.
    let text = std::fs::read_to_string(&file).unwrap();
    let (boot_id, line) = text.trim_end().split_once('\n').unwrap();
    let (since, epoch) = line.split_once(' ').unwrap();
    let hour = 3_600_000_000;
    let other = format!("{boot_id}\n{since} {}\n", epoch.parse::<i64>().unwrap() - hour);
    std::fs::write(&file, &other).unwrap();
    let clock = Clock::kept_in(&file).unwrap();
    let then = stamp - SignedDuration::from_micros(hour);
    assert!(age(&clock, then) < 60, "{:?}", clock.timeline());
    assert!(std::fs::read_to_string(&file).unwrap().starts_with(&other));

    // In another boot it means nothing.
    std::fs::write(&file, other.replacen(boot_id, "another", 1)).unwrap();
    assert!(age(&Clock::kept_in(&file).unwrap(), then) >= 3_600);
    std::fs::remove_dir_all(&dir).unwrap();
}
