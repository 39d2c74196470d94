//! A circuit breaker: after too many failures a backend is left alone for a while, then tried by one call at a time.
//!
//! ```text
//!            too many failures, or too many slow calls, within the window
//!   Closed ------------------------------------------------------------> Open
//!     ^                                                                   |  `open_for` has passed
//!     |  `successes` probes in a row went well                            v
//!     +--------------------------------------------------------------- HalfOpen
//!                                   a probe failed, or was slow: back to Open
//! ```
//!
//! Every change of state begins a new *generation*. What a call tells counts only in the generation that admitted it: a
//! straggler from before changes nothing. A call whose future is dropped by a panic counts as a failure; one that is
//! dropped otherwise tells nothing, and gives its probe back. Whoever listens to changes is called without the lock.
//!
//! After M. Nygard, *Release It!*, 2nd edition, "Circuit Breaker"; rolling window and slow calls as in resilience4j.

mod layers;
mod window;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::time::Instant;

pub use self::layers::Ahead;
use self::window::Window;
use super::{Denied, Verdict, lock};
use crate::sync::{Arc, Mutex};

/// When a breaker opens and closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How far back failures count.
    pub window: Duration,
    /// Fewer calls than this within the window open nothing.
    pub at_least: u32,
    /// It opens when so many of a hundred calls failed.
    pub failed_percent: u32,
    /// It opens when so many of a hundred calls were slow.
    pub slow_percent: u32,
    /// Calls that take longer are slow.
    pub slow: Duration,
    /// How long the backend is left alone.
    pub open_for: Duration,
    /// Probes in a row that must go well.
    pub successes: u32,
}

/// The state, as metrics and people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Calls pass.
    Closed,
    /// No call passes.
    Open,
    /// One call at a time passes, as a probe.
    HalfOpen,
}

impl State {
    /// The word in metrics, logs and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// A change of state. Listeners of two changes may run at the same time: the higher generation is the newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Of the state after; grows by one with each change.
    pub generation: u64,
}

type Listener = Box<dyn Fn(Change) + Send + Sync>;

/// See the module. Shared by all calls to one backend.
pub struct Breaker {
    settings: Settings,
    core: Mutex<Core>,
    listener: Option<Listener>,
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("settings", &self.settings)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// A call that was let through. Dropped without [`Pass::settle`], it tells nothing, or of a panic.
#[derive(Debug)]
pub struct Pass {
    breaker: Arc<Breaker>,
    generation: u64,
    began: Instant,
    settled: bool,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let core = Core { generation: 0, mode: Mode::Closed(Box::new(Window::new(settings.window, now))) };
        Self { settings, core: Mutex::new(core), listener: None }
    }

    /// Tells `listener` of each change of state.
    #[must_use]
    pub fn on_change(mut self, listener: impl Fn(Change) + Send + Sync + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// The state of now.
    pub fn state(&self) -> State {
        lock(&self.core).mode.state()
    }

    /// Whether it knows of no trouble: a new one would let the same calls through. Calls that went well are no trouble.
    pub fn is_untroubled(&self, now: Instant) -> bool {
        match &lock(&self.core).mode {
            Mode::Closed(window) => window.is_clean(now),
            Mode::Open { .. } | Mode::HalfOpen { .. } => false,
        }
    }

    /// What a call would be refused with now; it is not let through by asking.
    pub fn refusal(&self, now: Instant) -> Option<Denied> {
        lock(&self.core).refusal(now)
    }

    /// Lets a call through, or refuses it. From here on it counts how long it takes.
    ///
    /// # Errors
    /// [`Denied::Open`].
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Pass, Denied> {
        let (admitted, change) = {
            let mut core = lock(&self.core);
            let before = core.mode.state();
            let admitted = core.admit(now);
            (admitted.map(|()| core.generation), core.change_since(before))
        };
        self.tell(change);
        admitted.map(|generation| Pass { breaker: Arc::clone(self), generation, began: now, settled: false })
    }

    fn settle(&self, generation: u64, verdict: Verdict, took: Duration, now: Instant) {
        let change = {
            let mut core = lock(&self.core);
            let before = core.mode.state();
            if generation == core.generation {
                core.settle(&self.settings, verdict, took, now);
            }
            core.change_since(before)
        };
        self.tell(change);
    }

    fn tell(&self, change: Option<Change>) {
        let (Some(change), Some(listener)) = (change, &self.listener) else { return };
        // It may be called while a panic unwinds, where another would end the process.
        if catch_unwind(AssertUnwindSafe(|| listener(change))).is_err() {
            tracing::error!(?change, "a breaker's listener panicked");
        }
    }
}

impl Pass {
    /// Says how the call ended.
    pub fn settle(mut self, verdict: Verdict, now: Instant) {
        self.settled = true;
        self.breaker.settle(self.generation, verdict, now.saturating_duration_since(self.began), now);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.settled {
            let verdict = if std::thread::panicking() { Verdict::Sick } else { Verdict::Unknown };
            self.breaker.settle(self.generation, verdict, Duration::ZERO, Instant::now());
        }
    }
}

/// The machine itself: no time but what it is told, no lock, no callback.
#[derive(Debug)]
struct Core {
    generation: u64,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Closed(Box<Window>),
    Open { until: Instant },
    HalfOpen { probing: bool, successes: u32 },
}

impl Mode {
    const fn state(&self) -> State {
        match self {
            Self::Closed(_) => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
        }
    }
}

impl Core {
    fn refusal(&self, now: Instant) -> Option<Denied> {
        match self.mode {
            Mode::Open { until } if now < until => Some(Denied::Open { retry_in: until - now }),
            Mode::HalfOpen { probing: true, .. } => Some(Denied::Open { retry_in: Duration::ZERO }),
            Mode::Closed(_) | Mode::Open { .. } | Mode::HalfOpen { .. } => None,
        }
    }

    fn admit(&mut self, now: Instant) -> Result<(), Denied> {
        if let Some(refusal) = self.refusal(now) {
            return Err(refusal);
        }
        match &mut self.mode {
            Mode::Closed(_) => {}
            Mode::Open { .. } => self.become_(Mode::HalfOpen { probing: true, successes: 0 }),
            Mode::HalfOpen { probing, .. } => *probing = true,
        }
        Ok(())
    }

    fn settle(&mut self, settings: &Settings, verdict: Verdict, took: Duration, now: Instant) {
        let slow = took > settings.slow;
        match &mut self.mode {
            Mode::Closed(window) => {
                match verdict {
                    Verdict::Well => window.note(now, false, slow),
                    Verdict::Sick => window.note(now, true, slow),
                    Verdict::Answered | Verdict::Unknown => return,
                }
                if window.is_sick(settings, now) {
                    self.become_(Mode::Open { until: now + settings.open_for });
                }
            }
            Mode::HalfOpen { probing, successes } => {
                *probing = false;
                match verdict {
                    Verdict::Unknown => {}
                    // It answers, which is what the probe is to find out.
                    Verdict::Well | Verdict::Answered if !slow => {
                        *successes += 1;
                        if *successes >= settings.successes {
                            self.become_(Mode::Closed(Box::new(Window::new(settings.window, now))));
                        }
                    }
                    Verdict::Well | Verdict::Answered | Verdict::Sick => {
                        self.become_(Mode::Open { until: now + settings.open_for });
                    }
                }
            }
            // Nobody was admitted by this generation.
            Mode::Open { .. } => {}
        }
    }

    fn become_(&mut self, mode: Mode) {
        self.mode = mode;
        self.generation += 1;
    }

    fn change_since(&self, from: State) -> Option<Change> {
        let to = self.mode.state();
        (from != to).then_some(Change { from, to, generation: self.generation })
    }
}

#[cfg(test)]
mod tests;
