//! The queue of keys: which key may be reconciled now, which must wait, and until when. Pure: no task, no clock.
//!
//! A key is idle, queued, running, or waiting for a moment. Time is a span since the queue's owner started.
//!
//! Invariants:
//! - A key runs at most once at a time, and keys start in the order in which they were queued.
//! - At most `limit` keys run at once.
//! - Wakes of a queued key coalesce; a wake of a running key is kept until it finishes, never lost.
//! - A key in back-off is started early only by [`Wake::Urgent`].
//! - A version that the key's own effects returned wakes nothing, whether its event comes before or after the effect's
//!   answer: events of a running key are judged when it finishes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use mainstay_runtime::KeyBackoff;

/// A point of time, counted from the start of the queue's owner.
pub type Moment = Duration;
/// A resourceVersion as a number.
pub type Version = u64;

/// How strongly an event asks for a reconcile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// The object changed in a way that asks for nothing new, such as its status: a key in back-off goes on waiting.
    Change,
    /// A new generation, a deletion, a related object's change: cuts a back-off short.
    Urgent,
}

/// What became of a wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The key was queued by it.
    Queued,
    /// The key will be reconciled anyway, or runs and is looked at again when it finishes.
    Coalesced,
    /// The key's own write, or a change that may not cut a back-off short.
    Ignored,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is as desired; look again after this time, if one is given.
    Settled(Option<Duration>),
    /// Someone wrote first: again at once, while that does not happen too often in a row.
    Conflict,
    /// It failed: back off, at least as long as the other side asked for.
    Failed(Option<Duration>),
    /// Nothing will help but a change; look again after this time all the same.
    Parked(Duration),
    /// The object is gone, or of no concern until something new is seen of it: nothing about it is kept.
    Gone,
}

/// Conflicts in a row that are answered at once; the next one counts as a failure.
const CONFLICTS_AT_ONCE: u32 = 5;
/// Written versions remembered per key.
const OWN_VERSIONS: usize = 8;
/// Events kept of a running key; beyond these only the fact that there were more is kept.
const PENDING_EVENTS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing to do; perhaps a timer.
    Idle,
    /// In `ready`.
    Queued,
    /// An attempt is under way.
    Running,
    /// Failed: waits for its timer or an urgent wake.
    BackOff,
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// The timer of an idle or backing-off key: its place in `timers`.
    timer: Option<(Moment, u64)>,
    backoff: KeyBackoff,
    conflicts: u32,
    /// Versions that this key's own effects returned, oldest first.
    own: VecDeque<Version>,
    /// Events that came while it ran.
    pending: Vec<(Wake, Option<Version>)>,
}

impl Entry {
    fn new() -> Self {
        Self {
            state: State::Idle,
            timer: None,
            backoff: KeyBackoff::default(),
            conflicts: 0,
            own: VecDeque::new(),
            pending: Vec::new(),
        }
    }

    fn is_own(&self, version: Option<Version>) -> bool {
        version.is_some_and(|version| self.own.contains(&version))
    }

    fn hold(&mut self, wake: Wake, version: Option<Version>) {
        if let Some(same) = self.pending.iter_mut().find(|(_, held)| *held == version) {
            same.0 = same.0.max(wake);
        } else if self.pending.len() < PENDING_EVENTS {
            self.pending.push((wake, version));
        } else {
            // Too many to keep apart: one event of no known version stands for all of them.
            let wake = self.pending.drain(..).map(|(held, _)| held).max().map_or(wake, |held| held.max(wake));
            self.pending.push((wake, None));
        }
    }

    /// The strongest wake that came while it ran and was not its own doing.
    fn take_pending(&mut self) -> Option<Wake> {
        let pending = std::mem::take(&mut self.pending);
        pending.into_iter().filter(|(_, version)| !self.is_own(*version)).map(|(wake, _)| wake).max()
    }
}

/// The keys of one driver.
#[derive(Debug)]
pub struct Queue<K> {
    entries: HashMap<K, Entry>,
    ready: VecDeque<K>,
    timers: BTreeMap<(Moment, u64), K>,
    timer_number: u64,
    running: usize,
    limit: usize,
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue of which at most `limit` keys run at once.
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        let (entries, ready, timers) = (HashMap::new(), VecDeque::new(), BTreeMap::new());
        Self { entries, ready, timers, timer_number: 0, running: 0, limit }
    }

    /// Tells of an event of this key, with the version of the object that it shows.
    pub fn wake(&mut self, key: &K, wake: Wake, version: Option<Version>) -> Woken {
        let entry = self.entries.entry(key.clone()).or_insert_with(Entry::new);
        match entry.state {
            State::Running => {
                entry.hold(wake, version);
                Woken::Coalesced
            }
            State::Queued => Woken::Coalesced,
            State::Idle | State::BackOff if entry.is_own(version) => Woken::Ignored,
            State::BackOff if wake < Wake::Urgent => Woken::Ignored,
            State::Idle | State::BackOff => {
                self.enqueue(key);
                Woken::Queued
            }
        }
    }

    /// Queues every key whose time has come.
    pub fn tick(&mut self, now: Moment) {
        while let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= now) {
            let key = first.remove();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.timer = None;
            }
            self.enqueue(&key);
        }
    }

    /// When [`Queue::tick`] must be called next.
    pub fn next_due(&self) -> Option<Moment> {
        self.timers.first_key_value().map(|((due, _), _)| *due)
    }

    /// The next key to run, which is then running until [`Queue::finish`]; `None` when none is queued or enough run.
    pub fn start(&mut self) -> Option<K> {
        if self.running >= self.limit {
            return None;
        }
        let key = self.ready.pop_front()?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.state = State::Running;
        }
        self.running += 1;
        Some(key)
    }

    /// Ends a running key's attempt. `written` are the versions that its effects returned; `random` is in [0, 1).
    pub fn finish(&mut self, key: &K, outcome: Outcome, written: &[Version], now: Moment, random: f64) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.state == State::Running) else { return };
        self.running -= 1;
        entry.own.extend(written);
        let surplus = entry.own.len().saturating_sub(OWN_VERSIONS);
        entry.own.drain(..surplus);
        let pending = entry.take_pending();
        let (next, after) = entry.judge(outcome, random);
        let again = match next {
            State::BackOff => pending == Some(Wake::Urgent),
            _ => pending.is_some(),
        };
        entry.state = next;
        if again || next == State::Queued {
            entry.state = State::Idle;
            self.enqueue(key);
        } else if outcome == Outcome::Gone {
            self.entries.remove(key);
        } else if let Some(after) = after {
            self.set_timer(key, now.saturating_add(after));
        }
    }

    /// Failures in a row of this key, an attempt under way not counted.
    pub fn failures(&self, key: &K) -> KeyBackoff {
        self.entries.get(key).map(|entry| entry.backoff).unwrap_or_default()
    }

    /// All keys for which `wanted` holds.
    pub fn keys_where(&self, wanted: impl Fn(&K) -> bool) -> Vec<K> {
        self.entries.keys().filter(|key| wanted(key)).cloned().collect()
    }

    /// How many keys there are, how many of them are queued, and how many run.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.entries.len(), self.ready.len(), self.running)
    }

    fn enqueue(&mut self, key: &K) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Some(timer) = entry.timer.take() {
            self.timers.remove(&timer);
        }
        if matches!(entry.state, State::Idle | State::BackOff) {
            entry.state = State::Queued;
            self.ready.push_back(key.clone());
        }
    }

    fn set_timer(&mut self, key: &K, due: Moment) {
        self.timer_number += 1;
        let place = (due, self.timer_number);
        if let Some(entry) = self.entries.get_mut(key)
            && let Some(old) = entry.timer.replace(place)
        {
            self.timers.remove(&old);
        }
        self.timers.insert(place, key.clone());
    }
}

impl Entry {
    /// The state after an attempt that nothing disturbed, and when to look again.
    fn judge(&mut self, outcome: Outcome, random: f64) -> (State, Option<Duration>) {
        match outcome {
            Outcome::Settled(next) => {
                self.backoff.reset();
                self.conflicts = 0;
                (State::Idle, next)
            }
            Outcome::Gone => {
                self.backoff.reset();
                self.conflicts = 0;
                (State::Idle, None)
            }
            Outcome::Conflict if self.conflicts < CONFLICTS_AT_ONCE => {
                self.conflicts += 1;
                (State::Queued, None)
            }
            Outcome::Conflict => (State::BackOff, Some(self.backoff.fail(random))),
            Outcome::Failed(asked) => {
                let wait = self.backoff.fail(random);
                (State::BackOff, Some(asked.map_or(wait, |asked| asked.max(wait))))
            }
            Outcome::Parked(resync) => {
                self.backoff.fail(random);
                (State::BackOff, Some(resync))
            }
        }
    }
}

#[cfg(test)]
mod tests;
