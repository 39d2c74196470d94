use super::*;

const POLICY: fn() -> Policy = Policy::default;

fn row() -> Row {
    Row {
        state: State::Running,
        attempt: 3,
        failures: 0,
        lost: 0,
        started_ms: 1_000,
        run_at_ms: 900,
        cancelled: false,
        undoing: None,
        history: Vec::new(),
    }
}

fn undoing() -> Row {
    Row { undoing: Some(note(&row(), &Failed::new("Invalid", "no"), 2_000)), ..row() }
}

fn judge(row: &Row, touched: bool, came: Came, random: f64) -> Decision {
    verdict(Before { row, max_attempts: 3, touched, policy: &POLICY() }, came, random)
}

fn failure(class: Class) -> Came {
    Came::Failed(Failure::new(class, "reach the backend"))
}

#[test]
fn a_failure_is_tried_again_with_full_jitter_until_there_were_too_many() {
    for (failures, most) in [(0, 2), (1, 4)] {
        let row = Row { failures, ..row() };
        for (random, share) in [(0.0, 0.0), (0.5, 0.5), (0.999, 0.999)] {
            let got = judge(&row, true, failure(Class::TRANSIENT), random);
            let want = Duration::from_secs(most).mul_f64(share);
            let Decision::Retry { after, undoing: false, .. } = got else { panic!("{got:?}") };
            assert_eq!(after, want, "after failure {failures}");
        }
    }
    let late = judge(&Row { failures: 2, ..row() }, true, failure(Class::Indeterminate), 0.0);
    let Decision::End { state: State::Dead, said, failure: Some(_), .. } = late else { panic!("{late:?}") };
    assert_eq!(said, Failed::new("AttemptsExhausted", "failed 3 times, at last: reach the backend"));
}

#[test]
fn who_asks_for_time_gets_it_up_to_the_cap() {
    let asks = |seconds| failure(Class::Transient { retry_after: Some(Duration::from_secs(seconds)) });
    for (asked, given) in [(7, 7), (100_000, 300)] {
        let got = judge(&row(), false, asks(asked), 0.0);
        assert!(matches!(got, Decision::Retry { after, .. } if after == Duration::from_secs(given)), "{got:?}");
    }
}

#[test]
fn what_can_never_succeed_is_undone_if_anything_was_done_and_dies_at_once_otherwise() {
    let terminal = || failure(Class::Terminal(Reason::Invalid));
    let got = judge(&row(), true, terminal(), 0.9);
    assert!(matches!(got, Decision::Retry { after: Duration::ZERO, undoing: true, .. }), "{got:?}");
    let got = judge(&row(), false, terminal(), 0.9);
    let Decision::End { state: State::Dead, said, .. } = got else { panic!("{got:?}") };
    assert_eq!(said.reason, "Invalid");
    // On the way back there is nowhere else to go.
    let got = judge(&undoing(), true, terminal(), 0.9);
    let Decision::End { state: State::Dead, said, .. } = got else { panic!("{got:?}") };
    assert_eq!(said.reason, "UndoFailed");
}

#[test]
fn a_panic_is_a_failed_attempt_like_others() {
    let got = judge(&row(), false, failure(Class::Terminal(Reason::Panicked)), 0.0);
    assert!(matches!(&got, Decision::Retry { failure, undoing: false, .. } if failure.reason == "Panicked"), "{got:?}");
    let got = judge(&Row { failures: 2, ..row() }, false, failure(Class::Terminal(Reason::Panicked)), 0.0);
    assert!(matches!(got, Decision::End { state: State::Dead, .. }), "{got:?}");
}

#[test]
fn undoing_has_patience_and_ends_with_the_cause() {
    let row = Row { failures: 4, ..undoing() };
    assert!(matches!(judge(&row, true, failure(Class::TRANSIENT), 0.0), Decision::Retry { undoing: false, .. }));
    let row = Row { failures: 5, ..undoing() };
    let got = judge(&row, true, failure(Class::TRANSIENT), 0.0);
    assert!(matches!(&got, Decision::End { state: State::Dead, said, .. } if said.reason == "UndoFailed"), "{got:?}");
    let got = judge(&undoing(), false, Came::Undone, 0.0);
    assert!(matches!(&got, Decision::End { state: State::Dead, said, .. } if said.reason == "Invalid"), "{got:?}");
    let cancelled = Row { cancelled: true, ..undoing() };
    let got = judge(&cancelled, false, Came::Undone, 0.0);
    assert!(matches!(got, Decision::End { state: State::Cancelled, failure: None, .. }), "{got:?}");
}

#[test]
fn waiting_and_stopping_count_as_nothing() {
    let wait = |span| judge(&row(), true, Came::NotYet(span), 0.5);
    assert_eq!(wait(Duration::from_secs(9)), Decision::Later { after: Duration::from_secs(9) });
    assert_eq!(wait(Duration::ZERO), Decision::Later { after: Duration::from_millis(50) });
    assert_eq!(wait(Duration::MAX), Decision::Later { after: Duration::from_hours(1) });
    assert_eq!(judge(&row(), true, Came::Stopped, 0.5), Decision::Later { after: Duration::ZERO });
}

#[test]
fn messages_are_cut_at_a_letter() {
    let long = Failed::new("Invalid", "ä".repeat(2_000));
    assert!(long.message.len() <= 1_024 && long.message.ends_with("ä..."), "{}", long.message.len());
}
