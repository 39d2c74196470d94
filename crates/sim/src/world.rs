//! The world: its time, its replicas, and what befalls them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mainstay_runtime::chance;
use mainstay_store::Revision;
use mainstay_store::memory::{Checks, Database};

use crate::backend::{Backend, STEPS};
use crate::dice::Dice;
use crate::history::{Broken, History};
use crate::host::{Host, Shared};
use crate::orders::{key, value};
use crate::terms::Terms;
use crate::watchers;
use crate::wire::Weather;

/// Replicas.
const HOSTS: usize = 3;
/// A step of the world, in milliseconds.
const TICK: u64 = 20;
/// So long after the last fault everything has to be done: two minutes.
const BOUND: u64 = 120_000;

/// What is there, and what was taken away to see that it is missed.
#[derive(Debug, Clone, Copy)]
pub struct Without {
    /// The database's checks.
    pub checks: Checks,
    /// Whether the backend refuses older tokens.
    pub backend_fences: bool,
}

impl Without {
    /// Everything is there.
    pub const NOTHING: Self = Self { checks: Checks::ALL, backend_fences: true };
}

/// A run that broke no promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Everything that was noted, in order.
    pub history: Vec<String>,
    /// The newest revision.
    pub revision: u64,
    /// The world's time at the end, in milliseconds.
    pub took_ms: u64,
}

struct World {
    shared: Arc<Shared>,
    hosts: Vec<Host>,
    dice: Dice,
    now: Arc<AtomicU64>,
    now_ms: u64,
    /// What ends when: a host's trouble.
    troubles: Vec<(u64, usize, Trouble)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Dead,
    Frozen,
    Weather,
}

/// Runs the world of a seed until everything is done. Blocks.
///
/// # Errors
/// The first promise that is broken.
pub fn run(seed: u64, without: Without) -> Result<Report, Broken> {
    let _seeded = chance::seed(seed);
    let mut world = World::new(seed, without);
    let faults_ms = world.dice.within(20_000..60_000);
    for host in 0..HOSTS {
        world.start(host)?;
    }
    let mut next = world.dice.within(500..4_000);
    while world.now_ms < faults_ms {
        if world.now_ms >= next {
            world.befall();
            next = world.now_ms + world.dice.within(300..5_000);
        }
        world.step()?;
    }
    world.calm()?;
    let bound = world.now_ms + BOUND;
    while !world.is_done() {
        if world.now_ms > bound {
            return Err(world.wedged());
        }
        world.step()?;
    }
    world.judge()
}

impl World {
    fn new(seed: u64, without: Without) -> Self {
        let now = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&now);
        let mut dice = Dice::new(seed, 0);
        let shared = Arc::new(Shared {
            seed,
            database: Database::new(without.checks, move || clock.load(Ordering::Relaxed)),
            backend: Backend::new(Dice::new(seed, 1), without.backend_fences),
            history: History::default(),
            watchers: watchers::all(),
            terms: Terms::default(),
            goal: dice.within(10..40),
            over: AtomicBool::new(false),
            starts: AtomicU64::new(0),
            broken: Mutex::default(),
        });
        let hosts = (0..HOSTS).map(|number| Host::new(number, seed)).collect();
        Self { shared, hosts, dice, now, now_ms: 0, troubles: Vec::new() }
    }

    fn start(&mut self, host: usize) -> Result<(), Broken> {
        self.shared.history.note(&self.hosts[host].name, "starts");
        let (shared, now_ms) = (Arc::clone(&self.shared), self.now_ms);
        let started = self.hosts[host].start(&shared, now_ms);
        started.map_err(|error| shared.history.broken("a process can be started", error.to_string()))
    }

    /// A step of time, for everybody in turn.
    fn step(&mut self) -> Result<(), Broken> {
        self.now_ms += TICK;
        self.now.store(self.now_ms, Ordering::Relaxed);
        self.shared.history.tick(self.now_ms);
        self.shared.backend.tick(self.now_ms);
        self.shared.database.settle();
        let (now_ms, troubles) = (self.now_ms, std::mem::take(&mut self.troubles));
        let (over, troubles): (Vec<_>, Vec<_>) = troubles.into_iter().partition(|(until, ..)| *until <= now_ms);
        self.troubles = troubles;
        over.into_iter().try_for_each(|(_, host, trouble)| self.relieve(host, trouble))?;
        self.hosts.iter_mut().for_each(|host| host.step(now_ms, TICK));
        if let Err((promise, seen)) = self.shared.terms.look(&self.hosts, now_ms) {
            self.shared.fail(promise, seen);
        }
        let broken = self.shared.broken.lock().unwrap_or_else(PoisonError::into_inner).take();
        broken.map_or(Ok(()), Err)
    }

    /// Something happens to one of the hosts, or to a client.
    fn befall(&mut self) {
        let at = usize::try_from(self.dice.within(0..HOSTS as u64)).unwrap_or(0);
        let until = self.now_ms + self.dice.within(300..22_000);
        let (what, closing) = (self.dice.within(0..100), self.dice.percent(60));
        let (shared, host) = (Arc::clone(&self.shared), &mut self.hosts[at]);
        let note = |what: &str| shared.history.note(&host.name.clone(), what);
        if host.is_dead() || host.frozen || what >= 85 {
            let to = usize::try_from(self.dice.within(0..HOSTS as u64)).unwrap_or(0);
            let watcher = usize::try_from(self.dice.within(0..shared.watchers.len() as u64)).unwrap_or(0);
            shared.watchers[watcher].go(to);
            return shared.history.note("world", &format!("client {watcher} goes to r{to}"));
        }
        let trouble = match what {
            0..25 => {
                note(if closing { "is killed" } else { "is gone, silently" });
                host.kill();
                shared.terms.gone(&host.name);
                if closing {
                    shared.database.disconnect(&host.name);
                }
                Trouble::Dead
            }
            25..50 => {
                note("is frozen");
                host.frozen = true;
                Trouble::Frozen
            }
            _ => {
                let weather = match what {
                    50..56 => Weather::Cut,
                    56..62 => Weather::Deaf,
                    62..65 => Weather::Refused,
                    _ => Weather::Lossy(self.dice.within(5..40)),
                };
                note(&format!("has weather: {weather:?}"));
                host.wire.turn(weather);
                Trouble::Weather
            }
        };
        self.troubles.push((until, at, trouble));
    }

    fn relieve(&mut self, at: usize, trouble: Trouble) -> Result<(), Broken> {
        let host = &mut self.hosts[at];
        match trouble {
            Trouble::Dead if host.is_dead() => return self.start(at),
            Trouble::Dead => {}
            Trouble::Frozen => {
                host.frozen = false;
                self.shared.history.note(&host.name, "goes on");
            }
            Trouble::Weather => {
                host.wire.turn(Weather::Fair);
                self.shared.history.note(&host.name, "has fair weather");
            }
        }
        Ok(())
    }

    /// No more faults, and nothing new.
    fn calm(&mut self) -> Result<(), Broken> {
        self.shared.history.note("world", "is calm");
        self.shared.over.store(true, Ordering::Relaxed);
        let troubles = std::mem::take(&mut self.troubles);
        troubles.into_iter().try_for_each(|(_, host, trouble)| self.relieve(host, trouble))
    }

    /// The operations that have not ended.
    fn open(&self) -> Vec<u64> {
        let ended = |number: &u64| {
            let object = self.shared.database.current(&key(*number));
            object.is_some_and(|object| value(&object) != "open")
        };
        (0..self.shared.goal).filter(|number| !ended(number)).collect()
    }

    /// All operations have ended, and all clients have seen it.
    fn is_done(&self) -> bool {
        self.now_ms.is_multiple_of(1_000) && self.open().is_empty() && {
            // Leaders go on for ever: a client that has seen what there was a second ago has seen enough.
            let newest = self.shared.database.changes(Revision(0)).len() as u64;
            self.shared.watchers.iter().all(|watcher| watcher.position().0 + 60 >= newest)
        }
    }

    fn wedged(&self) -> Broken {
        let positions: Vec<_> = self.shared.watchers.iter().map(|watcher| watcher.position().0).collect();
        let newest = self.shared.database.changes(Revision(0)).len();
        let seen = format!(
            "after {BOUND} ms of calm: open {:?}, clients at {positions:?} of {newest}, leases {:?}",
            self.open(),
            self.shared.database.terms()
        );
        self.shared.history.broken("everything comes to its end", seen)
    }

    fn judge(self) -> Result<Report, Broken> {
        let history = &self.shared.history;
        let log = self.shared.database.changes(Revision(0));
        let watched: Vec<_> = self.shared.watchers.iter().flat_map(watchers::Watcher::recordings).collect();
        history.judge(&log, &watched)?;
        let effects = self.shared.backend.effects();
        if let Some((of, times)) = effects.iter().find(|(_, times)| **times > 1) {
            return Err(history.broken("an effect is had once", format!("{of:?}: {times} times")));
        }
        for number in 0..self.shared.goal {
            let object = self.shared.database.current(&key(number));
            let ended = object.as_deref().map(value).unwrap_or_default();
            let uid: Arc<str> = format!("paint-{number}").into();
            let had = STEPS.iter().all(|step| effects.contains_key(&(Arc::clone(&uid), Arc::from(*step))));
            if ended != "succeeded" || !had {
                return Err(history.broken("what has ended well was done", format!("{uid}: {ended}, {had}")));
            }
        }
        let revision = log.len() as u64;
        Ok(Report { history: history.lines(), revision, took_ms: self.now_ms })
    }
}
