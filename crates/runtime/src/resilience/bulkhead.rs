//! A bulkhead: a bounded number of calls to one backend on their way, so that a sick one takes no others down.
//!
//! Who finds no place waits, first come first served, for a bounded time and in a bounded number; beyond, the refusal is
//! a type of its own. A caller that goes away while it waits is never let in, and one that goes away with a place gives
//! it to the next. What streams keeps its place until it is closed ([`Hold`]).

mod hold;

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use tower::Service;

use super::deadline::Bounded;
use super::layer::Around;
use super::{CallFailure, Denied, lock};
use crate::sync::{Arc, Mutex};
pub use hold::{AtAnswer, AtEnd, Held, Hold};

/// How many calls, and how long others wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Calls on their way.
    pub places: usize,
    /// Callers that may wait for a place; more are [`Denied::Overloaded`].
    pub waiting: usize,
    /// How long they wait before they are [`Denied::Full`]; zero = not at all.
    pub wait: Duration,
}

/// See the module. Shared by all calls to one backend.
#[derive(Debug)]
pub struct Bulkhead {
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    next: u64,
    /// Those who wait, oldest first.
    waiting: VecDeque<(u64, Waker)>,
    /// Those who waited, have a place, and do not know it yet.
    granted: HashSet<u64>,
}

/// A place; dropping it lets the next one in.
#[derive(Debug)]
pub struct Place(Arc<Bulkhead>);

impl Bulkhead {
    /// All places free.
    pub fn new(settings: Settings) -> Self {
        let state = State { free: settings.places, next: 0, waiting: VecDeque::new(), granted: HashSet::new() };
        Self { settings, state: Mutex::new(state) }
    }

    /// All places.
    pub const fn places(&self) -> usize {
        self.settings.places
    }

    /// Places that are free, and callers that wait.
    pub fn counts(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.free, state.waiting.len())
    }

    /// A place, when there is one or one becomes free in time: by `until` at the latest.
    ///
    /// # Errors
    /// [`Denied::Full`] and [`Denied::Overloaded`].
    ///
    /// # Cancel safety
    /// Dropping it leaves the line.
    pub async fn enter(self: &Arc<Self>, until: Option<Instant>) -> Result<Place, Denied> {
        let full = Denied::Full { places: self.settings.places };
        if self.settings.wait.is_zero() {
            return self.take().ok_or(full);
        }
        if let Some(place) = self.take() {
            return Ok(place);
        }
        let patience = Instant::now() + self.settings.wait;
        let patience = until.map_or(patience, |until| until.min(patience));
        match tokio::time::timeout_at(patience, self.line_up()).await {
            Ok(place) => place,
            Err(_) => Err(full),
        }
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let mut state = lock(&self.state);
        // Nobody passes those who wait.
        let free = state.free.checked_sub(1).filter(|_| state.waiting.is_empty())?;
        state.free = free;
        Some(Place(Arc::clone(self)))
    }

    /// A place in the line, without an end to the wait.
    pub fn line_up(self: &Arc<Self>) -> Line {
        Line { bulkhead: Arc::clone(self), number: None }
    }

    fn give_back(&self) {
        let mut state = lock(&self.state);
        let Some((number, waker)) = state.waiting.pop_front() else {
            state.free += 1;
            return;
        };
        state.granted.insert(number);
        drop(state);
        waker.wake();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// A caller who waits.
#[derive(Debug)]
pub struct Line {
    bulkhead: Arc<Bulkhead>,
    /// Where it stands, once it does.
    number: Option<u64>,
}

impl Future for Line {
    type Output = Result<Place, Denied>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let bulkhead = Arc::clone(&self.bulkhead);
        let mut state = lock(&bulkhead.state);
        let Some(number) = self.number else {
            if state.free > 0 && state.waiting.is_empty() {
                state.free -= 1;
                return Poll::Ready(Ok(Place(Arc::clone(&self.bulkhead))));
            }
            if state.waiting.len() >= bulkhead.settings.waiting {
                return Poll::Ready(Err(Denied::Overloaded));
            }
            let number = state.next;
            state.next += 1;
            state.waiting.push_back((number, context.waker().clone()));
            self.number = Some(number);
            return Poll::Pending;
        };
        if state.granted.remove(&number) {
            self.number = None;
            return Poll::Ready(Ok(Place(Arc::clone(&self.bulkhead))));
        }
        if let Some((_, waker)) = state.waiting.iter_mut().find(|(other, _)| *other == number) {
            waker.clone_from(context.waker());
        }
        Poll::Pending
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let was_granted = {
            let mut state = lock(&self.bulkhead.state);
            state.waiting.retain(|(other, _)| *other != number);
            state.granted.remove(&number)
        };
        if was_granted {
            self.bulkhead.give_back();
        }
    }
}

/// A bulkhead and what becomes of an answer's place.
#[derive(Debug)]
pub struct Places<H> {
    bulkhead: Arc<Bulkhead>,
    hold: H,
}

impl<H> Places<H> {
    /// `hold` is [`AtAnswer`] or [`AtEnd`].
    pub const fn new(bulkhead: Arc<Bulkhead>, hold: H) -> Self {
        Self { bulkhead, hold }
    }
}

impl<S, R, H> Around<S, R> for Places<H>
where
    S: Service<R> + Send + 'static,
    S::Error: CallFailure,
    S::Future: Send,
    S::Response: Send,
    R: Bounded + Send + 'static,
    H: Hold<S::Response>,
{
    type Response = H::Held;

    async fn call(self: Arc<Self>, mut inner: S, request: R) -> Result<H::Held, S::Error> {
        let place = self.bulkhead.enter(request.until()).await?;
        let answer = inner.call(request).await?;
        Ok(self.hold.hold(answer, place))
    }
}

#[cfg(test)]
mod tests;
