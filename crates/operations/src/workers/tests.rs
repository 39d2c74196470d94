use futures::future::BoxFuture;
use mainstay_runtime::operation::{At, Progress, Step, Work};
use mainstay_store::operation::{Ending, Settlement, State};
use mainstay_store::{Draft, Object, StoreError, Write};
use mainstay_testkit::redis::{Keeps, Redis};
use serde_json::Value;

use super::*;
use crate::fake::{FakeQueue, claimed, finds};
use crate::turns::Address;

/// Operations do what their names say.
#[derive(Debug)]
struct Named;

impl Handler for Named {
    fn name(&self) -> &'static str {
        "named"
    }

    fn steps(&self, work: &Work) -> Result<Vec<Box<dyn Step>>, Failure> {
        Ok(match &*work.name {
            "hangs" => vec![Box::new(Hangs)],
            "hangs-at-last" => vec![Box::new(Done), Box::new(Hangs)],
            _ => Vec::new(),
        })
    }
}

/// Heeds nothing.
struct Hangs;

impl Step for Hangs {
    fn name(&self) -> &'static str {
        "hang"
    }

    fn observe<'a>(&'a self, _: &'a At) -> BoxFuture<'a, Result<Option<Progress>, Failure>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn act<'a>(&'a self, _: &'a At) -> BoxFuture<'a, Result<Progress, Failure>> {
        std::future::pending().boxed()
    }
}

struct Done;

impl Step for Done {
    fn name(&self) -> &'static str {
        "done"
    }

    fn observe<'a>(&'a self, _: &'a At) -> BoxFuture<'a, Result<Option<Progress>, Failure>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn act<'a>(&'a self, _: &'a At) -> BoxFuture<'a, Result<Progress, Failure>> {
        std::future::ready(Ok(Progress::DONE)).boxed()
    }
}

impl Ledger for Named {
    fn order(&self, object: &Object) -> Result<Order, Failure> {
        assert!(&*object.key.name != "panics-at-first", "as asked");
        let (namespace, name) = (object.key.namespace.clone(), object.key.name.clone());
        let work =
            Work { id: name.clone(), namespace, name, handler: "named".into(), owner: None, payload: Value::Null };
        Ok(Order { work, max_attempts: 3, timeout: Duration::from_secs(10) })
    }

    fn end(&self, object: &Object, ending: &Ending) -> Result<Write, Failure> {
        match &*object.key.name {
            "panics-at-last" => panic!("as asked"),
            "unreadable" => Err(Failure::new(Class::Terminal(Reason::Corrupt), "read the operation")),
            _ => {
                let is_bare = ending.output.is_null() && ending.standing.steps.is_empty();
                let tail = format!("{:?} bare={is_bare}", ending.state);
                let draft = Draft { head: "".into(), tail: tail.into(), meta: Arc::default(), queued: None };
                Ok(Write::Update { key: object.key.clone(), draft, expected: object.revision })
            }
        }
    }
}

fn start(queue: &Arc<FakeQueue>) -> (Surroundings, Instant) {
    start_with(queue, None)
}

fn start_with(queue: &Arc<FakeQueue>, turns: Option<Turns>) -> (Surroundings, Instant) {
    start_as(queue, turns, Policy::default())
}

fn start_as(queue: &Arc<FakeQueue>, turns: Option<Turns>, policy: Policy) -> (Surroundings, Instant) {
    let named: Arc<dyn Handler> = Arc::new(Named);
    let with = Surroundings {
        queue: queue.clone(),
        turns,
        ledger: Arc::new(Named),
        handlers: Handlers::new([named]),
        clock: Clock::virtual_from("2030-01-01T00:00:00Z".parse().unwrap()),
        tasks: Tasks::new(),
        policy,
        metrics: Metrics::default(),
    };
    Workers::start(with.clone());
    (with, Instant::now())
}

/// All of its attempts are let go of: otherwise they would be renewed for ever, and no process could end.
async fn ends(with: Surroundings) {
    with.tasks.shutdown(Duration::from_mins(1)).await.unwrap();
    assert_eq!(with.metrics.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_looked_at_when_something_may_be_there_and_now_and_then() {
    let due = |seconds: i64| Ok(Claims { next_due_ms: Some(1_893_456_000_000 + seconds * 1_000), ..Claims::default() });
    let expiry = Ok(Claims { next_expiry: Some(Duration::from_secs(4)), ..Claims::default() });
    let queue = FakeQueue::new([due(7), expiry, Err(StoreError::Busy), due(1_000), Ok(Claims::default())]);
    let (with, began) = start(&queue);
    tokio::time::sleep(Duration::from_secs(80)).await;
    queue.changed();
    queue.asked(7).await;
    let seconds: Vec<f64> =
        queue.claimed().iter().map(|at| (at.duration_since(began).as_secs_f64() * 10.0).round() / 10.0).collect();
    assert_eq!(seconds, [0.0, 7.0, 11.0, 11.5, 41.5, 71.5, 80.0]);
    ends(with).await;
}

#[tokio::test(start_paused = true)]
async fn another_begins_while_an_end_is_stored_and_not_without_bound() {
    let queue = FakeQueue::new(["ok-1", "ok-2", "ok-3"].map(|name| Ok(finds([claimed(name, 0)]))));
    queue.answers(false);
    let (with, _) = start_as(&queue, None, Policy { slots: 1, slots_per_lane: 1, ..Policy::default() });
    queue.settled(2).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(queue.claimed().len(), 2, "one ends, and one has the slot");
    queue.answers(true);
    queue.settled(3).await;
    ends(with).await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_heeds_nothing_is_given_up_when_it_has_overrun_its_time() {
    let queue = FakeQueue::new([Ok(finds([claimed("hangs", 0)]))]);
    let (with, began) = start(&queue);
    let (at, settlement) = queue.settled(1).await.remove(0);
    assert_eq!((at - began).as_millis() / 100, 150, "10 s, and 5 s");
    let Settlement::Retry { note, undoing: None, .. } = settlement else { panic!("{settlement:?}") };
    assert_eq!(note.reason, "Indeterminate");
    ends(with).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_store_cannot_take_now_is_said_again_until_it_can() {
    let queue = FakeQueue::new([Ok(finds([claimed("ok", 0)]))]).refuses(vec![StoreError::Full; 100]);
    let (with, _) = start(&queue);
    let settled = queue.settled(101).await;
    assert!(settled.windows(2).all(|two| (two[1].0 - two[0].0).as_millis() == PAUSE.as_millis()));
    assert!(settled.iter().all(|(_, what)| matches!(what, Settlement::End { state: State::Succeeded, .. })));
    ends(with).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_store_will_never_take_is_said_with_less_and_then_by_the_row_alone() {
    let large = StoreError::TooLarge { size: 2, limit: 1 };
    let queue = FakeQueue::new([Ok(finds([claimed("ok", 0)]))]).refuses([StoreError::Full, large.clone(), large]);
    let (with, began) = start(&queue);
    let settled = queue.settled(4).await;
    assert_eq!((settled[3].0 - began).as_millis() / 100, 5, "once for what may pass, never for what does not");
    assert!(matches!(&settled[2].1, Settlement::End { state: State::Succeeded, .. }), "{settled:?}");
    let Settlement::Bury { note } = &settled[3].1 else { panic!("{settled:?}") };
    assert_eq!(note.reason, "TooLarge");
    ends(with).await;
    assert_eq!(queue.settled(0).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn whoever_panics_or_cannot_be_read_is_a_dead_letter_and_held_no_longer() {
    for (name, reason) in [("panics-at-last", "Panicked"), ("unreadable", "Corrupt")] {
        let queue = FakeQueue::new([Ok(finds([claimed(name, 0)]))]);
        let (with, _) = start(&queue);
        let (_, settlement) = queue.settled(1).await.remove(0);
        assert!(matches!(&settlement, Settlement::Bury { note } if note.reason == reason), "{name}: {settlement:?}");
        ends(with).await;
    }
    let queue = FakeQueue::new([Ok(finds([claimed("panics-at-first", 0)]))]);
    let (with, _) = start(&queue);
    let (_, settlement) = queue.settled(1).await.remove(0);
    assert!(
        matches!(&settlement, Settlement::End { state: State::Dead, note: Some(note), .. } if note.reason == "Panicked"),
        "{settlement:?}"
    );
    ends(with).await;
}

#[tokio::test(start_paused = true)]
async fn of_those_that_may_kill_their_worker_one_is_begun_when_the_others_are_handed_back() {
    let found = finds([claimed("hangs", 4), claimed("b", 2), claimed("c", 3), claimed("d", 1), claimed("e", 0)]);
    let later = finds([claimed("f", 2)]);
    let queue = FakeQueue::new([Ok(found), Ok(later)]);
    let (with, began) = start(&queue);
    let settled = queue.settled(4).await;
    let unbegun = settled.iter().take_while(|(_, what)| matches!(what, Settlement::Unbegun { .. }));
    assert_eq!(unbegun.count(), 2, "{settled:?}");
    assert!(settled[2..4].iter().all(|(_, what)| matches!(what, Settlement::End { .. })), "{settled:?}");
    // One that is found while the first is there waits, too.
    queue.changed();
    let (at, fifth) = queue.settled(5).await.remove(4);
    let Settlement::Unbegun { run_at_ms } = fifth else { panic!("{fifth:?}") };
    let after = run_at_ms - with.clock.now().as_millisecond();
    assert!(at - began < Duration::from_secs(1) && (1_000..=2_000).contains(&after), "again after {after} ms");
    ends(with).await;
}

#[tokio::test(start_paused = true)]
async fn whose_step_got_done_is_no_suspect_any_more_and_leaves_the_place_to_the_next() {
    let queue = FakeQueue::new([Ok(finds([claimed("hangs-at-last", 2)])), Ok(finds([claimed("next", 2)]))]);
    let (with, began) = start(&queue);
    tokio::time::sleep(Duration::from_secs(1)).await;
    queue.changed();
    let (at, settlement) = queue.settled(1).await.remove(0);
    assert!(at - began < Duration::from_secs(2));
    assert!(matches!(settlement, Settlement::End { state: State::Succeeded, .. }), "{settlement:?}");
    ends(with).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_has_them_claim_and_so_does_a_hint_that_no_turn_follows() {
    let redis = Redis::start(Keeps::Nothing).unwrap();
    let turns = Turns::new(Address::parse(&redis.url()).unwrap(), "here", "one", crate::turns::Metrics::default());
    let (queue, tasks, made) = (FakeQueue::new([]), Tasks::new(), watch::Sender::new(0));
    turns.tell(&tasks, made.subscribe());
    let (with, _) = start_with(&queue, Some(turns));
    queue.asked(1).await;
    made.send_replace(1);
    queue.asked(2).await;
    queue.changed();
    queue.asked(3).await;
    with.tasks.stop();
    tasks.stop();
}
