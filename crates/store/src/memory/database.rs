//! The database: everything behind one lock, which nobody holds over an await.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::Checks;
use super::leases::Leases;
use super::log::Log;
use super::talk::Talk;
use super::writer::{Answer, Batch};
use crate::conformance::backlog::Backlog;
use crate::keyring::Ring;
use crate::lock;
use crate::object::{Key, Object, Revision};
use crate::watch::Change;

/// See [`super`]. Cheap to clone.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    now_ms: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Changes with each commit that others may want to know of.
    told: watch::Sender<u64>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("revision", &lock(&self.0.state).log.newest()).finish_non_exhaustive()
    }
}

/// What gets there after it was given up.
type Belated = Box<dyn FnOnce(&mut State) + Send>;

/// Everything that is stored.
pub(super) struct State {
    pub(super) checks: Checks,
    pub(super) log: Log,
    pub(super) backlog: Backlog,
    /// The objects of operations, by uid.
    pub(super) orders: BTreeMap<Arc<str>, Key>,
    /// Which replica claimed an operation last.
    pub(super) holders: BTreeMap<Arc<str>, Arc<str>>,
    /// Changes with what those who wait for operations have to know.
    pub(super) turns: u64,
    /// What came of batches by their ids; `None` of those that never were, and never will be.
    pub(super) batches: BTreeMap<Batch, Option<Answer>>,
    /// How often each replica has entered.
    pub(super) replicas: BTreeMap<Arc<str>, u64>,
    pub(super) counters: BTreeMap<String, u64>,
    pub(super) ring: Ring,
    pub(super) talk: Talk,
    pub(super) leases: Leases,
    /// By when they come, and in which order they were sent.
    late: BTreeMap<(u64, u64), Belated>,
    sent: u64,
    pub(super) now_ms: u64,
}

impl Database {
    /// An empty one, whose clock is `now_ms`.
    pub fn new(checks: Checks, now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let state = State {
            checks,
            log: Log::default(),
            backlog: Backlog::default(),
            orders: BTreeMap::new(),
            holders: BTreeMap::new(),
            turns: 0,
            batches: BTreeMap::new(),
            replicas: BTreeMap::new(),
            counters: BTreeMap::new(),
            ring: Ring::default(),
            talk: Talk::default(),
            leases: Leases::default(),
            late: BTreeMap::new(),
            sent: 0,
            now_ms: 0,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), now_ms: Box::new(now_ms), told: watch::Sender::new(0) }))
    }

    /// Does something, after whatever has come late by now.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.0.state);
        let before = state.version();
        state.now_ms = (self.0.now_ms)();
        state.backlog.clock_ms = state.now_ms;
        while let Some(entry) = state.late.first_entry().filter(|entry| entry.key().0 <= (self.0.now_ms)()) {
            let belated = entry.remove();
            belated(&mut state);
        }
        let done = work(&mut state);
        let changed = state.version() != before;
        drop(state);
        if changed {
            self.0.told.send_modify(|told| *told += 1);
        }
        done
    }

    /// Something comes by then, by this database's clock.
    pub(super) fn later(&self, after_ms: u64, work: impl FnOnce(&mut State) + Send + 'static) {
        let at = (self.0.now_ms)() + after_ms;
        let mut state = lock(&self.0.state);
        state.sent += 1;
        let sent = state.sent;
        state.late.insert((at, sent), Box::new(work));
    }

    /// Hears of commits.
    pub(super) fn told(&self) -> watch::Receiver<u64> {
        self.0.told.subscribe()
    }

    /// Time has passed: what is late by now comes.
    pub fn settle(&self) {
        self.with(|_| ());
    }

    /// The connections of a replica are closed, as those of a process are that was killed.
    pub fn disconnect(&self, replica: &str) {
        self.with(|state| state.leases.disconnect(replica));
    }

    /// All changes there ever were above a revision, in order, whoever asked for them.
    pub fn changes(&self, after: Revision) -> Vec<Arc<Change>> {
        self.with(|state| state.log.after(after).to_vec())
    }

    /// An object as it is stored now.
    pub fn current(&self, key: &Key) -> Option<Arc<Object>> {
        self.with(|state| state.log.current(key).cloned())
    }

    /// The newest term of each lease, and who has it; nobody when it was handed back.
    pub fn terms(&self) -> Vec<(String, u64, String)> {
        self.with(|state| state.leases.terms())
    }
}

impl State {
    /// Changes when there is something that others want to hear of.
    fn version(&self) -> (Revision, u64, u64, u64) {
        (self.log.newest(), self.turns, self.ring.generation, self.leases.handed_back())
    }

    /// A process begins under a replica's name: gives its term. What an earlier one held has lost its worker.
    pub(super) fn enter(&mut self, replica: &Arc<str>) -> u64 {
        let term = self.replicas.entry(Arc::clone(replica)).or_default();
        *term += 1;
        let term = *term;
        let holders = &self.holders;
        self.backlog.lose(|uid| holders.get(uid) == Some(replica));
        term
    }

    pub(super) fn raise(&mut self, counter: &str) -> u64 {
        let value = self.counters.entry(counter.to_owned()).or_default();
        *value += 1;
        *value
    }
}
