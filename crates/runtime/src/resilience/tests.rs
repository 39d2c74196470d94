//! The layers together, on paused time, around a backend that does what it is told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt};

use super::breaker::{self, Ahead, Breaker, State};
use super::bulkhead::{self, AtAnswer, Bulkhead, Places};
use super::deadline::{Bounded, Deadline};
use super::gates::Limits;
use super::layer::Put;
use super::retry::{Budget, Repeatable, Retry};
use super::*;
use crate::Tasks;
use crate::failure::Reason;
use crate::sync::{Arc, Mutex};

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the backend says {0}")]
    Backend(u16),
}

impl Classify for Fault {
    fn class(&self) -> Class {
        match self {
            Self::Denied(denied) => denied.class(),
            Self::Backend(404) => Class::Terminal(Reason::NotFound),
            Self::Backend(429) => Class::Transient { retry_after: Some(Duration::from_mins(5)) },
            Self::Backend(529) => Class::Transient { retry_after: Some(Duration::from_secs(5)) },
            Self::Backend(_) => Class::TRANSIENT,
        }
    }
}

impl CallFailure for Fault {
    fn denied(&self) -> Option<&Denied> {
        match self {
            Self::Denied(denied) => Some(denied),
            Self::Backend(_) => None,
        }
    }

    fn blames_backend(&self) -> bool {
        matches!(self, Self::Backend(500..) | Self::Denied(_))
    }
}

#[derive(Debug, Clone, Copy)]
struct Ask {
    keyed: bool,
    until: Option<Instant>,
}

impl Bounded for Ask {
    fn until(&self) -> Option<Instant> {
        self.until
    }
}

impl Repeatable for Ask {
    fn again(&self) -> Option<Self> {
        self.keyed.then_some(*self)
    }
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Ok,
    Status(u16),
    /// 200, so late.
    After(Duration),
    Never,
    Panic,
}

/// Answers as told, then with 200; counts what reached it.
#[derive(Clone, Default)]
struct Backend {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    reached: Arc<AtomicUsize>,
}

impl Backend {
    fn told(answers: &[Answer]) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.iter().copied().collect())), reached: Arc::default() }
    }

    fn reached(&self) -> usize {
        self.reached.load(Ordering::Relaxed)
    }

    async fn answer(self) -> Result<(), Fault> {
        self.reached.fetch_add(1, Ordering::Relaxed);
        let next = lock(&self.answers).pop_front().unwrap_or(Answer::Ok);
        match next {
            Answer::Ok => Ok(()),
            Answer::Status(status) => Err(Fault::Backend(status)),
            Answer::After(span) => {
                tokio::time::sleep(span).await;
                Ok(())
            }
            Answer::Never => std::future::pending().await,
            Answer::Panic => panic!("as told"),
        }
    }
}

const BREAKER: breaker::Settings = Limits::of(Duration::from_secs(3)).breaker;

struct Stack {
    backend: Backend,
    breaker: Arc<Breaker>,
    bulkhead: Arc<Bulkhead>,
    budget: Arc<Budget>,
}

impl Stack {
    fn around(backend: Backend) -> Self {
        Self::with(backend, bulkhead::Settings { places: 2, waiting: 2, wait: Duration::from_secs(1) })
    }

    fn with(backend: Backend, places: bulkhead::Settings) -> Self {
        Self {
            backend,
            breaker: Arc::new(Breaker::new(BREAKER, Instant::now())),
            bulkhead: Arc::new(Bulkhead::new(places)),
            budget: Arc::new(Budget::new()),
        }
    }

    fn call(&self, keyed: bool) -> impl Future<Output = Result<(), Fault>> + Send + use<> {
        self.ask(Ask { keyed, until: None })
    }

    /// By a caller who has so much time.
    fn call_within(&self, left: Duration) -> impl Future<Output = Result<(), Fault>> + Send + use<> {
        self.ask(Ask { keyed: true, until: Some(Instant::now() + left) })
    }

    fn ask(&self, ask: Ask) -> impl Future<Output = Result<(), Fault>> + Send + use<> {
        let retries = Limits::of(Duration::from_secs(3)).retry;
        let backend = self.backend.clone();
        ServiceBuilder::new()
            .layer(Put(Arc::new(Retry::new(retries, Arc::clone(&self.budget)))))
            .layer(Put(Arc::new(Ahead(Arc::clone(&self.breaker)))))
            .layer(Put(Arc::new(Places::new(Arc::clone(&self.bulkhead), AtAnswer))))
            .layer(Put(Arc::clone(&self.breaker)))
            .layer(Put(Arc::new(Deadline { most: Duration::from_secs(3), slow: BREAKER.slow })))
            .service(tower::service_fn(move |_: Ask| backend.clone().answer()))
            .oneshot(ask)
    }
}

#[tokio::test(start_paused = true)]
async fn a_keyed_call_is_made_three_times_at_most_and_another_once() {
    let stack = Stack::around(Backend::told(&[Answer::Status(503); 4]));
    assert!(matches!(stack.call(true).await, Err(Fault::Backend(503))));
    assert_eq!(stack.backend.reached(), 3);
    assert!(stack.call(false).await.is_err());
    assert_eq!(stack.backend.reached(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_could_mend_by_repeating_is_not_repeated() {
    let stack = Stack::around(Backend::told(&[Answer::Status(404), Answer::Status(429)]));
    assert!(matches!(stack.call(true).await, Err(Fault::Backend(404))));
    let began = Instant::now();
    assert!(matches!(stack.call(true).await, Err(Fault::Backend(429))), "it is to come back in 5 minutes");
    assert_eq!((stack.backend.reached(), began.elapsed()), (2, Duration::ZERO));
    assert_eq!(stack.budget.left(), Budget::MOST, "what is not repeated is not paid for");
}

#[tokio::test(start_paused = true)]
async fn repeats_are_a_tenth_of_the_calls() {
    let stack = Stack::around(Backend::told(&[]));
    while stack.budget.withdraw() {}
    for _ in 0..9 {
        stack.call(true).await.unwrap();
    }
    lock(&stack.backend.answers).extend([Answer::Status(503); 3]);
    let before = stack.backend.reached();
    assert!(stack.call(true).await.is_err(), "the tenth call brings in one repeat, which fails, too");
    assert_eq!(stack.backend.reached() - before, 2);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_refuses_at_once_and_closes_after_two_probes() {
    let stack = Stack::around(Backend::told(&[Answer::Status(500); 5]));
    for _ in 0..5 {
        assert!(matches!(stack.call(false).await, Err(Fault::Backend(500))));
    }
    let began = Instant::now();
    for _ in 0..100 {
        let refused = stack.call(true).await;
        assert!(matches!(refused, Err(Fault::Denied(Denied::Open { retry_in })) if retry_in == BREAKER.open_for));
    }
    assert_eq!((stack.backend.reached(), began.elapsed()), (5, Duration::ZERO), "nobody waited, nothing was sent");
    tokio::time::advance(BREAKER.open_for).await;
    stack.call(false).await.unwrap();
    assert_eq!(stack.breaker.state(), State::HalfOpen);
    stack.call(false).await.unwrap();
    assert_eq!(stack.breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_backend_fails_calls_at_their_deadline_and_opens_the_breaker() {
    let stack = Stack::around(Backend::told(&[Answer::Never; 6]));
    let began = Instant::now();
    let calls: Vec<_> = (0..4).map(|_| Tasks::new().spawn("call", stack.call(false))).collect();
    let mut told = Vec::new();
    for call in calls {
        told.push(call.await.unwrap().unwrap_err().to_string());
    }
    told.sort();
    let (full, late) = ("all 2 places for calls to the backend are taken", "no answer within 3s");
    assert_eq!(told, [full, full, late, late]);
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    assert_eq!(stack.breaker.state(), State::Closed, "two that failed and two that were never made");
    for _ in 0..3 {
        assert!(stack.call(false).await.is_err());
    }
    assert_eq!(stack.breaker.state(), State::Open);
    assert_eq!(stack.bulkhead.counts(), (2, 0), "all places are free again");
}

/// Its caller's attempt began a little before, and may take as long as the call: it is over first.
#[tokio::test(start_paused = true)]
async fn a_caller_that_has_enough_time_learns_of_a_stall_and_one_with_hardly_any_does_not() {
    let stack = Stack::around(Backend::told(&[Answer::Never; 30]));
    while stack.budget.withdraw() {}
    for _ in 0..20 {
        let given_up = stack.call_within(Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(given_up, Fault::Denied(Denied::GivenUp(_))) && given_up.class() == Class::Indeterminate);
    }
    assert_eq!(stack.breaker.state(), State::Closed, "a second is less than what is slow");
    tokio::time::advance(Duration::from_mins(1)).await;
    while stack.budget.withdraw() {}
    for _ in 0..5 {
        let late = stack.call_within(Duration::from_millis(2_990)).await.unwrap_err();
        assert!(matches!(late, Fault::Denied(Denied::TooLate(_))), "{late:?}");
    }
    assert_eq!(stack.breaker.state(), State::Open);
    tokio::time::advance(BREAKER.open_for).await;
    stack.call_within(Duration::from_millis(2_990)).await.unwrap_err();
    assert_eq!(stack.breaker.state(), State::Open, "so does a probe that stalls");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_its_caller_does() {
    let stack = Stack::around(Backend::told(&[Answer::Status(529); 3]));
    let began = Instant::now();
    assert!(matches!(stack.call_within(Duration::from_secs(4)).await, Err(Fault::Backend(529))));
    assert_eq!((stack.backend.reached(), began.elapsed()), (1, Duration::ZERO), "a repeat would come after 5 s");
    assert_eq!(stack.budget.left(), Budget::MOST, "and is not paid for");
    assert!(matches!(stack.call_within(Duration::from_secs(6)).await, Err(Fault::Backend(529))));
    assert_eq!((stack.backend.reached(), began.elapsed()), (3, Duration::from_secs(5)));

    let _taken = [stack.bulkhead.enter(None).await.unwrap(), stack.bulkhead.enter(None).await.unwrap()];
    let began = Instant::now();
    let full = stack.call_within(Duration::from_millis(400)).await;
    assert!(matches!(full, Err(Fault::Denied(Denied::Full { .. }))), "{full:?}");
    assert_eq!(began.elapsed(), Duration::from_millis(400));
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_is_refused_does_not_hide_that_the_call_was_sent() {
    let stack = Stack::around(Backend::told(&[Answer::Status(500); 6]));
    for _ in 0..4 {
        stack.call(false).await.unwrap_err();
    }
    let left = stack.budget.left();
    assert!(matches!(stack.call(true).await, Err(Fault::Backend(500))), "the fifth opens the breaker");
    assert_eq!((stack.breaker.state(), stack.backend.reached()), (State::Open, 5));
    assert_eq!(stack.budget.left(), left, "and a repeat that was not made costs nothing");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_place_is_not_the_backends_slowness() {
    let line = bulkhead::Settings { places: 2, waiting: 30, wait: Duration::from_secs(20) };
    let stack = Stack::with(Backend::told(&[Answer::After(Duration::from_secs(1)); 30]), line);
    let began = Instant::now();
    let calls: Vec<_> = (0..30).map(|_| Tasks::new().spawn("call", stack.call(false))).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(began.elapsed(), Duration::from_secs(15), "most waited for longer than what is slow");
    assert_eq!(stack.breaker.state(), State::Closed);

    lock(&stack.backend.answers).extend([Answer::Status(500); 5]);
    tokio::time::advance(BREAKER.window).await;
    for _ in 0..5 {
        stack.call(false).await.unwrap_err();
    }
    tokio::time::advance(BREAKER.open_for).await;
    let taken = [stack.bulkhead.enter(None).await.unwrap(), stack.bulkhead.enter(None).await.unwrap()];
    let probe = Tasks::new().spawn("probe", stack.call(false));
    tokio::time::sleep(BREAKER.slow * 2).await;
    assert_eq!(stack.bulkhead.counts(), (0, 1));
    drop(taken);
    probe.await.unwrap().unwrap();
    assert_eq!(stack.breaker.state(), State::HalfOpen, "a probe that waited was not slow");
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_a_place_while_the_breaker_opened_is_not_sent() {
    let stack = Stack::around(Backend::told(&[]));
    let taken = [stack.bulkhead.enter(None).await.unwrap(), stack.bulkhead.enter(None).await.unwrap()];
    let waits = Tasks::new().spawn("waits", stack.call(false));
    tokio::task::yield_now().await;
    assert_eq!(stack.bulkhead.counts(), (0, 1));
    for _ in 0..BREAKER.at_least {
        stack.breaker.admit(Instant::now()).unwrap().settle(Verdict::Sick, Instant::now());
    }
    drop(taken);
    assert!(matches!(waits.await.unwrap(), Err(Fault::Denied(Denied::Open { .. }))));
    assert_eq!((stack.backend.reached(), stack.bulkhead.counts()), (0, (2, 0)));
}

#[tokio::test(start_paused = true)]
async fn what_callers_do_wrong_opens_nothing() {
    let stack = Stack::around(Backend::told(&[Answer::Status(404); 50]));
    for _ in 0..50 {
        assert!(stack.call(false).await.is_err());
    }
    assert_eq!(stack.breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_panic_counts_and_gives_everything_back() {
    let stack = Stack::around(Backend::told(&[Answer::Panic; 5]));
    for _ in 0..5 {
        assert!(Tasks::new().spawn("call", stack.call(false)).await.unwrap_err().is_panic());
    }
    assert_eq!(stack.breaker.state(), State::Open);
    assert_eq!(stack.bulkhead.counts(), (2, 0));
    tokio::time::advance(BREAKER.open_for).await;
    lock(&stack.backend.answers).push_back(Answer::Panic);
    assert!(Tasks::new().spawn("call", stack.call(false)).await.unwrap_err().is_panic());
    assert_eq!(stack.breaker.state(), State::Open, "so does a probe's");
    tokio::time::advance(BREAKER.open_for).await;
    stack.call(false).await.unwrap();
    stack.call(false).await.unwrap();
    assert_eq!(stack.breaker.state(), State::Closed, "and nothing is wedged");
}

#[tokio::test(start_paused = true)]
async fn callers_that_go_away_tell_nothing() {
    let stack = Stack::around(Backend::told(&[Answer::Never; 20]));
    for _ in 0..20 {
        assert!(tokio::time::timeout(Duration::from_secs(1), stack.call(false)).await.is_err());
    }
    assert_eq!(stack.breaker.state(), State::Closed);
    assert_eq!(stack.bulkhead.counts(), (2, 0));
}
