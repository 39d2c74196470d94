//! The layers together, on paused time, around a backend that does what it is told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt};

use super::breaker::{self, Breaker, State};
use super::bulkhead::{self, AtAnswer, Bulkhead, Places};
use super::deadline::Deadline;
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
        let places = bulkhead::Settings { places: 2, waiting: 2, wait: Duration::from_secs(1) };
        Self {
            backend,
            breaker: Arc::new(Breaker::new(BREAKER, Instant::now())),
            bulkhead: Arc::new(Bulkhead::new(places)),
            budget: Arc::new(Budget::new()),
        }
    }

    fn call(&self, keyed: bool) -> impl Future<Output = Result<(), Fault>> + Send + use<> {
        let retries = Limits::of(Duration::from_secs(3)).retry;
        let backend = self.backend.clone();
        ServiceBuilder::new()
            .layer(Put(Arc::new(Retry::new(retries, Arc::clone(&self.budget)))))
            .layer(Put(Arc::clone(&self.breaker)))
            .layer(Put(Arc::new(Places::new(Arc::clone(&self.bulkhead), AtAnswer))))
            .layer(Put(Arc::new(Deadline(Duration::from_secs(3)))))
            .service(tower::service_fn(move |_: Ask| backend.clone().answer()))
            .oneshot(Ask { keyed })
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
