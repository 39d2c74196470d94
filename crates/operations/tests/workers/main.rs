//! Workers over a real store: what comes of each operation, and what does not.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod harness;
mod zombie;

use std::time::Duration;

use harness::{Bench, New, new};
use mainstay_operations::Policy;
use mainstay_store::operation::{Claim, HISTORY, Queue as _, Settlement};
use mainstay_store::{Store as _, StoreError};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_done_in_order_and_the_last_ones_output_is_the_operations() {
    let bench = Bench::new();
    let crew = bench.start(&[], Bench::policy());
    let order = new("one", &["first", "second", "third"]);
    bench.create(&order).await;
    let end = bench.end(&order).await;
    assert_eq!((&end["phase"], &end["output"]), (&json!("Succeeded"), &json!({ "by": "act third" })), "{end}");
    assert_eq!(end["steps"], json!([["first", "Done"], ["second", "Done"], ["third", "Done"]]));
    assert_eq!(bench.world.effects(), ["act first", "act second", "act third"]);
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_is_tried_again_and_none_before_it() {
    let bench = Bench::new();
    let crew = bench.start(&[("second", &["fail", "fail", "ok"])], Bench::policy());
    let order = new("one", &["first", "second"]);
    bench.create(&order).await;
    let end = bench.end(&order).await;
    assert_eq!(
        (&end["phase"], &end["attempt"], &end["failures"]),
        (&json!("Succeeded"), &json!(3), &json!(2)),
        "{end}"
    );
    assert_eq!(bench.world.effects(), ["act first", "act second"]);
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_its_effect_without_an_answer_is_observed_and_not_repeated() {
    let bench = Bench::new();
    let crew = bench.start(&[("only", &["lost", "never"])], Bench::policy());
    let order = new("one", &["only"]);
    bench.create(&order).await;
    let end = bench.end(&order).await;
    assert_eq!((&end["phase"], &end["output"]), (&json!("Succeeded"), &json!({ "by": "observed" })), "{end}");
    assert_eq!(bench.world.effects(), ["act only"]);
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_too_often_is_a_dead_letter_and_a_replay_goes_on_where_it_was() {
    let bench = Bench::new();
    let crew = bench.start(&[("second", &["fail", "fail", "fail", "ok"])], Bench::policy());
    let order = new("one", &["first", "second"]);
    bench.create(&order).await;
    let end = bench.end(&order).await;
    assert_eq!((&end["phase"], &end["reason"]), (&json!("Dead"), &json!("AttemptsExhausted")), "{end}");
    assert_eq!(end["steps"], json!([["first", "Done"], ["second", "Intent"]]));
    let died = bench.store.get(&order.key()).await.unwrap().unwrap().revision;
    bench.order(&order, false, 1).await;
    let end = bench.end_after(&order, mainstay_store::Revision(died.0 + 1)).await;
    assert_eq!((&end["phase"], &end["attempt"]), (&json!("Succeeded"), &json!(4)), "{end}");
    assert_eq!(bench.world.effects(), ["act first", "act second"]);
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_succeed_is_undone_in_reverse_and_a_replay_does_it_anew() {
    let bench = Bench::new();
    let crew = bench.start(&[("third", &["never", "ok"])], Bench::policy());
    let order = new("one", &["first", "second", "third"]);
    bench.create(&order).await;
    let end = bench.end(&order).await;
    assert_eq!((&end["phase"], &end["reason"]), (&json!("Dead"), &json!("SystemRefused")), "{end}");
    assert_eq!(end["steps"], json!([["first", "Undone"], ["second", "Undone"], ["third", "Undone"]]));
    assert_eq!(bench.world.effects(), ["act first", "act second", "undo third", "undo second", "undo first"]);
    let died = bench.store.get(&order.key()).await.unwrap().unwrap().revision;
    bench.order(&order, false, 1).await;
    let end = bench.end_after(&order, mainstay_store::Revision(died.0 + 1)).await;
    assert_eq!(end["phase"], json!("Succeeded"), "{end}");
    assert_eq!(bench.world.effects()[5..], ["act first", "act second", "act third"]);
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_died_often_is_remembered_as_far_as_it_may_be() {
    let bench = Bench::new();
    let crew = bench.start(&[("only", &["fail"])], Bench::policy());
    let order = New { max_attempts: 9, ..new("one", &["only"]) };
    let mut after = bench.create(&order).await.revision;
    for replays in 1..=3 {
        let end = bench.end_after(&order, after).await;
        let failures = order.max_attempts;
        assert_eq!((&end["reason"], &end["failures"]), (&json!("AttemptsExhausted"), &json!(failures)), "{end}");
        assert!(end["history"].as_u64().unwrap() <= HISTORY as u64, "{end}");
        let id = bench.store.get(&order.key()).await.unwrap().unwrap();
        let standing = bench.store.operations(vec![id.meta.uid.clone()]).await.unwrap().pop().flatten().unwrap();
        assert_eq!(
            (json!(standing.row.failures), json!(standing.row.history.len())),
            (end["failures"].clone(), end["history"].clone())
        );
        after = mainstay_store::Revision(id.revision.0 + 1);
        bench.order(&order, false, replays).await;
    }
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_becomes_dead_letters_and_others_do_not_wait_for_it() {
    let bench = Bench::new();
    let crew = bench.start(&[("bad", &["panic"])], Bench::policy());
    let unknown = New { handler: "nobody", ..new("unknown", &[]) };
    let unreadable = New { payload: json!({ "not": "a list" }), ..new("unreadable", &[]) };
    let panics = new("panics", &["bad"]);
    let twins = new("twins", &["same", "same"]);
    let good = new("good", &["good"]);
    for order in [&unknown, &unreadable, &panics, &twins, &good] {
        bench.create(order).await;
    }
    for (order, phase, reason) in [
        (&unknown, "Dead", "UnknownHandler"),
        (&unreadable, "Dead", "Invalid"),
        (&panics, "Dead", "AttemptsExhausted"),
        (&twins, "Dead", "Invalid"),
        (&good, "Succeeded", "Succeeded"),
    ] {
        let end = bench.end(order).await;
        assert_eq!((&end["phase"], &end["reason"]), (&json!(phase), &json!(reason)), "{end}");
    }
    assert_eq!(bench.world.effects(), ["act good"]);
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_world_is_no_failure() {
    let bench = Bench::new();
    let crew = bench.start(&[("only", &["later", "later", "later", "later", "later", "ok"])], Bench::policy());
    let order = new("one", &["only"]);
    bench.create(&order).await;
    let end = bench.end(&order).await;
    assert_eq!((&end["phase"], &end["failures"]), (&json!("Succeeded"), &json!(0)), "{end}");
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_attempt_stops_and_what_it_did_is_undone() {
    let bench = Bench::new();
    let crew = bench.start(&[("second", &["hang"])], Bench::policy());
    let order = new("one", &["first", "second", "third"]);
    bench.create(&order).await;
    bench.hangs(1).await;
    bench.order(&order, true, 0).await;
    let end = bench.end(&order).await;
    assert_eq!(end["phase"], json!("Cancelled"), "{end}");
    assert_eq!(bench.world.effects(), ["act first", "undo second", "undo first"]);
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_before_it_began_never_begins() {
    let bench = Bench::new();
    let order = New { run_at_ms: i64::MAX / 2, ..new("one", &["first"]) };
    bench.create(&order).await;
    let crew = bench.start(&[], Bench::policy());
    bench.order(&order, true, 0).await;
    assert_eq!(bench.end(&order).await["phase"], json!("Cancelled"));
    assert_eq!(bench.world.effects(), [""; 0]);
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_over_when_its_time_is() {
    let bench = Bench::new();
    let policy = Policy { overrun: Duration::from_millis(50), ..Bench::policy() };
    let crew = bench.start(&[("only", &["hang", "ok"])], policy);
    let order = New { timeout: Duration::from_millis(50), ..new("one", &["only"]) };
    bench.create(&order).await;
    let end = bench.end(&order).await;
    assert_eq!((&end["phase"], &end["failures"]), (&json!("Succeeded"), &json!(1)), "{end}");
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_a_key_waits_for_the_other() {
    let bench = Bench::new();
    let crew = bench.start(&[], Bench::policy());
    let orders: Vec<New> =
        (0..20).map(|at| New { key: Some("k"), ..new(&format!("o{at}"), &["first", "second"]) }).collect();
    for order in &orders {
        bench.create(order).await;
    }
    for order in &orders {
        assert_eq!(bench.end(order).await["phase"], json!("Succeeded"));
    }
    assert_eq!(bench.world.most_at_once("a"), 1);
    crew.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_hands_back_what_it_had() {
    let bench = Bench::new();
    let policy = Policy { lease: Duration::from_hours(1), ..Bench::policy() };
    let crew = bench.start(&[("second", &["hang", "ok"])], policy);
    let order = new("one", &["first", "second"]);
    bench.create(&order).await;
    bench.hangs(1).await;
    crew.stop().await;
    let crew = bench.start(&[], policy);
    let end = bench.end(&order).await;
    assert_eq!(end["phase"], json!("Succeeded"), "{end}");
    assert_eq!(bench.world.effects(), ["act first", "act second"]);
    crew.stop().await;
}

/// A zombie: it cannot renew, and somebody else has done its work when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_operation_cannot_say_how_it_ended() {
    let bench = Bench::new();
    let order = new("one", &["first"]);
    bench.create(&order).await;
    let claim = |lease| Claim { limit: 1, per_lane: 1, lease, now_ms: i64::MAX / 4 };
    let zombie = bench.store.claim(claim(Duration::from_millis(20))).await.unwrap().claimed.remove(0);
    let crew = bench.start(&[], Bench::policy());
    assert_eq!(bench.end(&order).await["attempt"], json!(2));
    let later = Settlement::Later { run_at_ms: 0 };
    let refused = bench.store.settle(&zombie.attempt, later).await;
    assert!(matches!(refused, Err(StoreError::Fenced(_))), "{refused:?}");
    assert_eq!(bench.store.queue_figures().await.unwrap().fenced, 1);
    assert_eq!(crew.metrics.refused(), 0);
    crew.stop().await;
}

/// The runtime of the first worker is gone with all its tasks, as with SIGKILL, but for the process.
#[test]
fn a_dead_workers_operation_runs_again_when_its_lease_is_over() {
    let bench = Bench::new();
    let order = new("one", &["first", "second"]);
    let doomed = tokio::runtime::Runtime::new().unwrap();
    doomed.block_on(async {
        bench.start(&[("second", &["hang"])], Bench::policy());
        bench.create(&order).await;
        bench.hangs(1).await;
    });
    doomed.shutdown_background();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let crew = bench.start(&[], Bench::policy());
        let end = bench.end(&order).await;
        assert_eq!((&end["phase"], &end["attempt"]), (&json!("Succeeded"), &json!(2)), "{end}");
        crew.stop().await;
    });
    assert_eq!(bench.world.effects(), ["act first", "act second"]);
}
