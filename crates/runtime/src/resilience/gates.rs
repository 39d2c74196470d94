//! The gates of all backends: one breaker and one bulkhead for each backend, class of operation and host.
//!
//! So a backend whose launches fail can still be asked for its list, and one host that is sick does not stand for the
//! others. All gates of a backend share its retry [`Budget`]. Beyond a bound, gates are forgotten that nobody has in hand
//! and that have nothing to remember.

mod limits;

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt};

pub use self::limits::Limits;
use super::breaker::{self, Ahead, Breaker};
use super::bulkhead::{AtAnswer, Bulkhead, Places};
use super::deadline::{Bounded, Deadline};
use super::layer::Put;
use super::retry::{Budget, Repeatable, Retry};
use super::tally::{Counts, Tally};
use super::{CallFailure, lock};
use crate::sync::{Arc, Mutex};

/// Which gate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The backend: `compute`, `dns`, `github`, ...
    pub backend: &'static str,
    /// What kind of operation: `launch`, `read`, ...
    pub class: &'static str,
    /// The host that is called.
    pub host: Arc<str>,
}

/// What stands in front of one host of one backend, for one class of operation.
#[derive(Debug)]
pub struct Gate {
    breaker: Arc<Breaker>,
    bulkhead: Arc<Bulkhead>,
    deadline: Deadline,
    retry: Arc<Retry>,
    tally: Arc<Tally>,
    /// When the breaker last changed.
    changed: Arc<Mutex<Instant>>,
}

/// A gate as metrics and people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Which.
    pub key: Key,
    /// Of its breaker.
    pub state: breaker::State,
    /// Calls on their way.
    pub inside: usize,
    /// Calls that may be on their way.
    pub places: usize,
    /// Calls that wait for a place.
    pub waiting: usize,
    /// For how long its breaker has been in this state.
    pub since: Duration,
    /// What became of its calls.
    pub counts: Counts,
}

type Listener = dyn Fn(&Key, breaker::Change) + Send + Sync;

/// All gates of a process.
pub struct Gates {
    most: usize,
    listener: Option<Arc<Listener>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    gates: HashMap<Key, (Arc<Gate>, Instant)>,
    budgets: HashMap<&'static str, Arc<Budget>>,
}

impl std::fmt::Debug for Gates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gates").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Gates {
    /// None yet; more than `most` are kept only while somebody has them, or they know of failures.
    pub fn new(most: usize) -> Self {
        Self { most, listener: None, state: Mutex::new(State::default()) }
    }

    /// Tells `listener` of each breaker's changes.
    #[must_use]
    pub fn on_change(mut self, listener: impl Fn(&Key, breaker::Change) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// The gate of `key`, made with `limits` when it is not there.
    pub fn of(&self, key: &Key, limits: &Limits) -> Arc<Gate> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if let Some((gate, used)) = state.gates.get_mut(key) {
            *used = now;
            return Arc::clone(gate);
        }
        let budget = Arc::clone(state.budgets.entry(key.backend).or_default());
        let gate = Arc::new(self.gate(key, limits, budget, now));
        state.gates.insert(key.clone(), (Arc::clone(&gate), now));
        // Not this one: its caller has it in hand.
        state.forget(self.most, now);
        gate
    }

    fn gate(&self, key: &Key, limits: &Limits, budget: Arc<Budget>, now: Instant) -> Gate {
        let (tally, changed) = (Arc::new(Tally::default()), Arc::new(Mutex::new(now)));
        let (key, listener) = (key.clone(), self.listener.clone());
        let (count, at) = (Arc::clone(&tally), Arc::clone(&changed));
        let breaker = Breaker::new(limits.breaker, now).on_change(move |change| {
            *lock(&at) = Instant::now();
            if change.to == breaker::State::Open {
                count.opened();
            }
            if let Some(listener) = &listener {
                listener(&key, change);
            }
        });
        Gate {
            breaker: Arc::new(breaker),
            bulkhead: Arc::new(Bulkhead::new(limits.bulkhead)),
            deadline: Deadline { most: limits.deadline, slow: limits.breaker.slow },
            retry: Arc::new(Retry::new(limits.retry, budget)),
            tally,
            changed,
        }
    }

    /// How many repeats each backend may still make, by backend.
    pub fn budgets(&self) -> Vec<(&'static str, u32)> {
        let mut left: Vec<_> =
            lock(&self.state).budgets.iter().map(|(backend, budget)| (*backend, budget.left())).collect();
        left.sort_unstable();
        left
    }

    /// All gates, by key.
    pub fn view(&self) -> Vec<View> {
        let gates: Vec<_> =
            lock(&self.state).gates.iter().map(|(key, (gate, _))| (key.clone(), Arc::clone(gate))).collect();
        let mut views: Vec<_> = gates.into_iter().map(|(key, gate)| gate.view(key)).collect();
        views.sort_by(|one, other| one.key.cmp(&other.key));
        views
    }
}

impl State {
    /// Lets go of the gates that nobody has used for longest, if they have nothing to remember.
    fn forget(&mut self, most: usize, now: Instant) {
        while self.gates.len() > most {
            let idle = self.gates.iter().filter(|(_, (gate, _))| gate.is_idle(now));
            let Some(oldest) = idle.min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone()) else { return };
            self.gates.remove(&oldest);
        }
    }
}

/// A call that may be sent again, or not.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    repeatable: bool,
    until: Option<Instant>,
}

impl Repeatable for Attempt {
    fn again(&self) -> Option<Self> {
        self.repeatable.then_some(*self)
    }
}

impl Bounded for Attempt {
    fn until(&self) -> Option<Instant> {
        self.until
    }
}

impl Gate {
    /// Makes a call through the gate, for as long as its class may take. It is repeated only if it is `repeatable`: it
    /// only reads, or carries a key by which the backend knows a second arrival.
    ///
    /// # Errors
    /// The call's own, and [`super::Denied`] for a call that was not made or had no answer in time.
    ///
    /// # Cancel safety
    /// The call is dropped; its place and its probe are given back. It tells nothing of the backend, so who has only so
    /// much time says so ([`Gate::call_until`]).
    pub async fn call<T, E, F>(&self, repeatable: bool, call: impl Fn() -> F + Clone + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: CallFailure + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.call_until(None, repeatable, call).await
    }

    /// The same, over by `until`: waits, repeats and all.
    ///
    /// # Errors
    /// As [`Gate::call`].
    ///
    /// # Cancel safety
    /// As [`Gate::call`].
    pub async fn call_until<T, E, F>(
        &self,
        until: Option<Instant>,
        repeatable: bool,
        call: impl Fn() -> F + Clone + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: CallFailure + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.tally.called();
        let service = ServiceBuilder::new()
            .layer(Put(Arc::clone(&self.retry)))
            .layer(Put(Arc::clone(&self.tally)))
            .layer(Put(Arc::new(Ahead(Arc::clone(&self.breaker)))))
            .layer(Put(Arc::new(Places::new(Arc::clone(&self.bulkhead), AtAnswer))))
            .layer(Put(Arc::clone(&self.breaker)))
            .layer(Put(Arc::new(self.deadline)))
            .service(tower::service_fn(move |_: Attempt| call()));
        service.oneshot(Attempt { repeatable, until }).await
    }

    fn view(&self, key: Key) -> View {
        let (free, waiting) = self.bulkhead.counts();
        let places = self.bulkhead.places();
        View {
            key,
            state: self.breaker.state(),
            inside: places.saturating_sub(free),
            places,
            waiting,
            since: lock(&self.changed).elapsed(),
            counts: self.tally.read(),
        }
    }

    /// Nobody has it, nor a place of it, and it has nothing to remember that a new one would not know. Whoever asks holds
    /// the lock of the gates, so that nobody gets it meanwhile.
    fn is_idle(self: &Arc<Self>, now: Instant) -> bool {
        let in_use = Arc::strong_count(self) > 1 || self.bulkhead.counts() != (self.bulkhead.places(), 0);
        !in_use && self.breaker.is_untroubled(now)
    }
}

#[cfg(test)]
mod tests;
