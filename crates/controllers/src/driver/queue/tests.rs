use super::*;
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);

fn started(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
    std::iter::from_fn(|| queue.start()).collect()
}

fn running(key: &'static str) -> Queue<&'static str> {
    let mut queue = Queue::new(8);
    queue.wake(&key, Wake::Urgent, None);
    assert_eq!(queue.start(), Some(key));
    queue
}

#[test]
fn wakes_of_a_queued_key_coalesce_and_keys_start_in_order() {
    let mut queue = Queue::new(8);
    assert_eq!(queue.wake(&"a", Wake::Change, Some(1)), Woken::Queued);
    assert_eq!(queue.wake(&"b", Wake::Change, Some(2)), Woken::Queued);
    assert_eq!(queue.wake(&"a", Wake::Urgent, Some(3)), Woken::Coalesced);
    assert_eq!(started(&mut queue), ["a", "b"]);
}

/// R36.
#[test]
fn no_more_keys_run_than_the_limit() {
    let mut queue = Queue::new(2);
    for key in ["a", "b", "c"] {
        queue.wake(&key, Wake::Change, None);
    }
    assert_eq!(started(&mut queue), ["a", "b"]);
    queue.finish(&"a", Outcome::Settled(None), &[], S, 0.5);
    assert_eq!(started(&mut queue), ["c"]);
}

#[test]
fn a_wake_while_running_runs_the_key_again() {
    let mut queue = running("a");
    assert_eq!(queue.wake(&"a", Wake::Change, Some(7)), Woken::Coalesced);
    assert_eq!(queue.start(), None, "one at a time");
    queue.finish(&"a", Outcome::Settled(None), &[], S, 0.5);
    assert_eq!(queue.start(), Some("a"));
}

#[test]
fn an_own_write_wakes_nothing_before_or_after_its_answer() {
    let mut queue = running("a");
    queue.wake(&"a", Wake::Change, Some(7));
    queue.finish(&"a", Outcome::Settled(None), &[7, 8], S, 0.5);
    assert_eq!(queue.start(), None, "the event came before the answer");
    assert_eq!(queue.wake(&"a", Wake::Urgent, Some(8)), Woken::Ignored, "the event came after the answer");
    assert_eq!(queue.wake(&"a", Wake::Change, Some(9)), Woken::Queued, "somebody else's write");
}

#[test]
fn a_back_off_is_cut_short_by_urgent_wakes_only() {
    let mut queue = running("a");
    queue.finish(&"a", Outcome::Failed(None), &[], S, 0.0);
    assert_eq!(queue.next_due(), Some(2 * S));
    assert_eq!(queue.wake(&"a", Wake::Change, Some(9)), Woken::Ignored);
    assert_eq!(queue.start(), None);
    assert_eq!(queue.wake(&"a", Wake::Urgent, Some(10)), Woken::Queued);
    assert_eq!(queue.start(), Some("a"));
    assert_eq!(queue.next_due(), None, "its timer went with it");
}

#[test]
fn a_failure_while_changes_arrived_still_backs_off() {
    let mut queue = running("a");
    queue.wake(&"a", Wake::Change, Some(9));
    queue.finish(&"a", Outcome::Failed(None), &[], S, 0.0);
    assert_eq!(queue.start(), None);
    queue.tick(2 * S);
    assert_eq!(queue.start(), Some("a"));
    queue.wake(&"a", Wake::Urgent, Some(10));
    queue.finish(&"a", Outcome::Failed(None), &[], 3 * S, 0.0);
    assert_eq!(queue.start(), Some("a"), "a new generation came while it ran");
}

#[test]
fn the_other_sides_wish_lengthens_a_back_off_but_never_shortens_it() {
    for (asked, due) in [(None, 2), (Some(S / 2), 2), (Some(90 * S), 91)] {
        let mut queue = running("a");
        queue.finish(&"a", Outcome::Failed(asked), &[], S, 0.0);
        assert_eq!(queue.next_due(), Some(due * S), "{asked:?}");
    }
}

#[test]
fn conflicts_are_repeated_at_once_until_there_are_too_many() {
    let mut queue = running("a");
    for _ in 0..CONFLICTS_AT_ONCE {
        queue.finish(&"a", Outcome::Conflict, &[], S, 0.0);
        assert_eq!(queue.start(), Some("a"));
    }
    queue.finish(&"a", Outcome::Conflict, &[], S, 0.0);
    assert_eq!(queue.start(), None);
    assert_eq!(queue.next_due(), Some(2 * S));
}

#[test]
fn success_forgets_failures() {
    let mut queue = running("a");
    queue.finish(&"a", Outcome::Failed(None), &[], S, 0.0);
    assert_eq!(queue.failures(&"a").failures(), 1);
    queue.tick(9 * S);
    assert_eq!(queue.start(), Some("a"));
    queue.finish(&"a", Outcome::Settled(Some(5 * S)), &[], 9 * S, 0.0);
    assert_eq!(queue.failures(&"a").failures(), 0);
    assert_eq!(queue.next_due(), Some(14 * S), "it asked to be looked at again");
}

/// R36.
#[test]
fn a_key_that_is_gone_is_forgotten_unless_it_came_back() {
    let mut queue = running("a");
    queue.finish(&"a", Outcome::Gone, &[], S, 0.0);
    assert_eq!(queue.counts(), (0, 0, 0));
    let mut queue = running("a");
    queue.wake(&"a", Wake::Urgent, Some(3));
    queue.finish(&"a", Outcome::Gone, &[], S, 0.0);
    assert_eq!(queue.start(), Some("a"));
}

#[test]
fn a_parked_key_waits_for_an_urgent_wake_or_a_late_resync() {
    let mut queue = running("a");
    queue.finish(&"a", Outcome::Parked(300 * S), &[], S, 0.0);
    assert_eq!(queue.wake(&"a", Wake::Change, Some(1)), Woken::Ignored);
    assert_eq!(queue.next_due(), Some(301 * S));
    assert_eq!(queue.wake(&"a", Wake::Urgent, Some(2)), Woken::Queued);
}

/// R40.
#[test]
fn a_flood_of_events_while_running_is_bounded_and_not_lost() {
    let mut queue = running("a");
    for version in 0..1_000 {
        queue.wake(&"a", Wake::Change, Some(version));
    }
    assert!(queue.entries["a"].pending.len() <= PENDING_EVENTS);
    queue.finish(&"a", Outcome::Settled(None), &[999], S, 0.0);
    assert_eq!(queue.start(), Some("a"));
}

#[derive(Debug, Clone)]
enum Step {
    Wake(u8, bool),
    Start,
    Finish(u8, u8),
    Tick(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u8, any::<bool>()).prop_map(|(key, urgent)| Step::Wake(key, urgent)),
        Just(Step::Start),
        (0..4_u8, 0..5_u8).prop_map(|(key, how)| Step::Finish(key, how)),
        (0..40_u8).prop_map(Step::Tick),
    ];
    proptest::collection::vec(step, 0..200)
}

/// What must be true of one key, told in fewer words than the queue's.
#[derive(Debug, Default, Clone)]
struct Owed {
    running: bool,
    /// A reconcile must begin without any further event.
    due: bool,
    /// It failed and must not begin before this moment, unless urgently woken.
    not_before: Option<Moment>,
    dirty: Option<Wake>,
}

proptest! {
    /// R1.
    #[test]
    fn no_wake_is_lost_and_no_back_off_is_cut_by_a_mere_change(steps in steps()) {
        let mut queue = Queue::new(2);
        let mut model: [Owed; 4] = Default::default();
        let mut now = Duration::ZERO;
        for step in steps {
            match step {
                Step::Wake(key, urgent) => {
                    let wake = if urgent { Wake::Urgent } else { Wake::Change };
                    queue.wake(&key, wake, None);
                    let owed = &mut model[usize::from(key)];
                    if owed.running {
                        owed.dirty = owed.dirty.max(Some(wake));
                    } else if owed.not_before.is_none() || urgent {
                        (owed.due, owed.not_before) = (true, None);
                    }
                }
                Step::Start => {
                    let busy = model.iter().filter(|owed| owed.running).count();
                    match queue.start() {
                        Some(key) => {
                            let owed = &mut model[usize::from(key)];
                            prop_assert!(busy < 2 && !owed.running && owed.due, "{key} started: {owed:?}");
                            *owed = Owed { running: true, ..Owed::default() };
                        }
                        None => prop_assert!(busy == 2 || model.iter().all(|owed| !owed.due), "{model:?}"),
                    }
                }
                Step::Finish(key, how) => {
                    let owed = &mut model[usize::from(key)];
                    if !owed.running { continue }
                    let dirty = owed.dirty.take();
                    owed.running = false;
                    let outcome = match how {
                        0 => Outcome::Settled(None),
                        1 => Outcome::Gone,
                        2 => Outcome::Parked(300 * S),
                        3 => Outcome::Settled(Some(Duration::ZERO)),
                        _ => Outcome::Failed(None),
                    };
                    queue.finish(&key, outcome, &[], now, 0.0);
                    if matches!(outcome, Outcome::Failed(_) | Outcome::Parked(_)) && dirty != Some(Wake::Urgent) {
                        // The exact wait is the back-off's own test; here: at least a second.
                        owed.not_before = Some(now + S);
                    } else {
                        owed.due = dirty.is_some();
                    }
                    if outcome == Outcome::Settled(Some(Duration::ZERO)) {
                        queue.tick(now);
                        owed.due = true;
                    }
                }
                Step::Tick(seconds) => {
                    now += u32::from(seconds) * S;
                    queue.tick(now);
                    for (key, owed) in (0_u8..).zip(&mut model) {
                        let queued = queue.entries.get(&key).is_some_and(|entry| entry.state == State::Queued);
                        if queued && owed.not_before.is_some_and(|moment| moment <= now) {
                            (owed.due, owed.not_before) = (true, None);
                        }
                    }
                }
            }
        }
        // Left alone, every key that failed is tried again.
        queue.tick(now + 301 * S);
        for (key, owed) in (0_u8..).zip(&model) {
            let state = queue.entries.get(&key).map(|entry| entry.state);
            prop_assert!(!(owed.due || owed.not_before.is_some()) || state == Some(State::Queued), "{key}: {owed:?} {state:?}");
        }
    }
}
