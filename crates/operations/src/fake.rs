//! A queue that says what a test tells it to, and notes when it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending, ready};
use mainstay_store::operation::{
    Attempt, Claim, Claimed, Claims, DeadLetter, Queue, QueueFigures, Renewal, Row, Settlement, Standing, State,
    StepRow,
};
use mainstay_store::{Key, Meta, Object, Revision, StoreError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How a renewal goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Renews {
    All(Renewal),
    Fails,
    Hangs,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FakeQueue {
    state: Mutex<Said>,
    renews: Mutex<Renews>,
    changes: watch::Sender<u64>,
    told: Notify,
    /// Whether settlements are answered.
    answers: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Said {
    claims: VecDeque<Result<Claims, StoreError>>,
    settles: VecDeque<StoreError>,
    claimed: Vec<Instant>,
    renewed: Vec<Instant>,
    settled: Vec<(Instant, Settlement)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeQueue {
    /// Finds this, one for each claim, and then nothing; renews everything, and takes every settlement.
    pub(crate) fn new(claims: impl IntoIterator<Item = Result<Claims, StoreError>>) -> Arc<Self> {
        let state = Said { claims: claims.into_iter().collect(), ..Said::default() };
        Arc::new(Self {
            state: Mutex::new(state),
            renews: Mutex::new(Renews::All(Renewal::Held)),
            changes: watch::Sender::new(0),
            told: Notify::new(),
            answers: watch::Sender::new(true),
        })
    }

    /// The next settlements are refused so.
    pub(crate) fn refuses(self: Arc<Self>, errors: impl IntoIterator<Item = StoreError>) -> Arc<Self> {
        lock(&self.state).settles.extend(errors);
        self
    }

    pub(crate) fn renews(&self, how: Renews) {
        *lock(&self.renews) = how;
    }

    /// From now on settlements are answered, or wait for that.
    pub(crate) fn answers(&self, answers: bool) {
        self.answers.send_replace(answers);
    }

    pub(crate) fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// When it was asked for work.
    pub(crate) fn claimed(&self) -> Vec<Instant> {
        lock(&self.state).claimed.clone()
    }

    /// Waits until it was asked for work so often.
    pub(crate) async fn asked(&self, times: usize) {
        loop {
            let told = self.told.notified();
            if lock(&self.state).claimed.len() >= times {
                return;
            }
            told.await;
        }
    }

    /// When it was asked to renew.
    pub(crate) fn renewed(&self) -> Vec<Instant> {
        lock(&self.state).renewed.clone()
    }

    /// Waits until it was told so often what came of attempts; gives when, and what.
    pub(crate) async fn settled(&self, times: usize) -> Vec<(Instant, Settlement)> {
        loop {
            let told = self.told.notified();
            if lock(&self.state).settled.len() >= times {
                return lock(&self.state).settled.clone();
            }
            told.await;
        }
    }
}

/// The first attempt at an operation of this name, which has lost so many workers.
pub(crate) fn claimed(name: &str, lost: u32) -> Claimed {
    let row = Row {
        state: State::Running,
        attempt: 1,
        failures: 0,
        lost,
        started_ms: 1,
        run_at_ms: 0,
        cancelled: false,
        undoing: None,
        history: Vec::new(),
    };
    let object = Object {
        key: Key::new("mainstay.dev/operations", "n", name),
        revision: Revision(1),
        meta: Arc::new(Meta::default()),
        body: name.to_owned().into(),
    };
    Claimed {
        attempt: Attempt { id: name.into(), number: 1 },
        object: Arc::new(object),
        standing: Standing { row, steps: Vec::new() },
        waited: Duration::ZERO,
    }
}

/// A claim that finds these.
pub(crate) fn finds(claimed: impl IntoIterator<Item = Claimed>) -> Claims {
    Claims { claimed: claimed.into_iter().collect(), ..Claims::default() }
}

impl Queue for FakeQueue {
    fn claim(&self, _: Claim) -> BoxFuture<'_, Result<Claims, StoreError>> {
        let mut state = lock(&self.state);
        state.claimed.push(Instant::now());
        let found = state.claims.pop_front();
        drop(state);
        self.told.notify_waiters();
        ready(found.unwrap_or_else(|| Ok(Claims::default()))).boxed()
    }

    fn renew(&self, attempts: Vec<Attempt>, _: Duration) -> BoxFuture<'_, Result<Vec<Renewal>, StoreError>> {
        lock(&self.state).renewed.push(Instant::now());
        match *lock(&self.renews) {
            Renews::All(renewal) => ready(Ok(vec![renewal; attempts.len()])).boxed(),
            Renews::Fails => ready(Err(StoreError::Busy)).boxed(),
            Renews::Hangs => pending().boxed(),
        }
    }

    fn journal(&self, _: &Attempt, _: StepRow) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }

    fn settle(&self, _: &Attempt, settlement: Settlement) -> BoxFuture<'_, Result<Option<Arc<Object>>, StoreError>> {
        let mut state = lock(&self.state);
        state.settled.push((Instant::now(), settlement));
        let refused = state.settles.pop_front();
        drop(state);
        self.told.notify_waiters();
        let mut answers = self.answers.subscribe();
        async move {
            answers.wait_for(|answers| *answers).await.ok();
            refused.map_or(Ok(None), Err)
        }
        .boxed()
    }

    fn operations(&self, ids: Vec<Arc<str>>) -> BoxFuture<'_, Result<Vec<Option<Standing>>, StoreError>> {
        ready(Ok(vec![None; ids.len()])).boxed()
    }

    fn dead_letters(&self, _: usize) -> BoxFuture<'_, Result<Vec<DeadLetter>, StoreError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn queue_figures(&self) -> BoxFuture<'_, Result<QueueFigures, StoreError>> {
        ready(Ok(QueueFigures::default())).boxed()
    }
}
