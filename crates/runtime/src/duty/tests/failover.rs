//! Who does a singleton's passes, when its lease moves between two processes in the midst of them.

use std::collections::{BTreeMap, HashSet};

use futures::FutureExt;
use tokio::sync::watch;

use super::*;
use crate::lease::Held;

const SINGLE: Duty = Duty { place: Place::Singleton, ..PLAIN };

/// One lease, for two processes.
#[derive(Debug, Default)]
struct Port {
    term: u64,
    holder: Option<(usize, CancellationToken)>,
    /// It has just lost the lease, and the other is to have it.
    barred: Option<usize>,
}

/// The lease as one process asks for it.
#[derive(Debug, Clone)]
struct Side {
    process: usize,
    port: watch::Sender<Port>,
}

impl Side {
    fn pair() -> [Self; 2] {
        let port = watch::Sender::new(Port::default());
        [0, 1].map(|process| Self { process, port: port.clone() })
    }

    /// The holder is replaced, and is told so.
    fn fail_over(&self) {
        self.port.send_modify(|port| {
            if let Some((process, lost)) = port.holder.take() {
                port.barred = Some(process);
                lost.cancel();
            }
        });
    }

    fn take(&self, port: &mut Port) -> Option<Held> {
        if port.holder.is_some() || port.barred == Some(self.process) {
            return None;
        }
        let lost = CancellationToken::new();
        *port = Port { term: port.term + 1, holder: Some((self.process, lost.clone())), barred: None };
        Some(Held::new(SINGLE.name, port.term, lost, ()))
    }
}

impl Leases for Side {
    fn acquire(&self, _: &'static str) -> BoxFuture<'_, Result<Held, Failure>> {
        async move {
            let mut changes = self.port.subscribe();
            loop {
                let mut held = None;
                self.port.send_if_modified(|port| {
                    held = self.take(port);
                    held.is_some()
                });
                if let Some(held) = held {
                    return Ok(held);
                }
                changes.changed().await.map_err(|_| Failure::new(Class::TRANSIENT, "wait for the lease"))?;
            }
        }
        .boxed()
    }

    fn standings(&self) -> Vec<Standing> {
        Vec::new()
    }
}

/// Two processes that share a lease and a log.
struct Pair {
    sides: [Side; 2],
    duties: [Duties; 2],
    log: Log,
    _tasks: Tasks,
}

impl Pair {
    fn new() -> Self {
        let (tasks, clock) = (Tasks::new(), Clock::virtual_from(START.parse().unwrap()));
        let sides = Side::pair();
        let duties = sides.clone().map(|side| Duties::new(tasks.clone(), clock.clone(), Arc::new(side)));
        Self { sides, duties, log: Log::new(), _tasks: tasks }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_ends_the_pass_before_its_next_effect_and_the_other_process_begins_at_once() {
    let pair = Pair::new();
    for (process, duties) in pair.duties.iter().enumerate() {
        let log = pair.log.clone();
        duties.start(&SINGLE, move |tick| {
            let log = log.clone();
            async move {
                for effect in 0..3 {
                    tick.check()?;
                    log.note(format_args!("process {process} term {} due {} effect {effect}", tick.term, due(&tick)));
                    tokio::time::sleep(SECOND).await;
                }
                Ok(())
            }
        });
    }
    pair.log.first(2).await;
    pair.sides[0].fail_over();
    let lines = pair.log.first(8).await;
    let (own, others): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.contains("process 0"));
    assert_eq!(own, ["0.0 process 0 term 1 due 0 effect 0", "1.0 process 0 term 1 due 0 effect 1"]);
    assert_eq!(others[0], "1.0 process 1 term 2 due 0 effect 0", "it waits for no due time");
    assert_eq!(others[3], "7.0 process 1 term 2 due 10 effect 0");
    assert_eq!(pair.duties[0].seen()[0].1.failures, BTreeMap::from([("Fenced", 1)]));
}

/// What effects are done to: it refuses older terms and knows what it has done.
#[derive(Debug, Default)]
struct Receiver {
    term: u64,
    done: HashSet<String>,
    /// How often each due time had its effect, whatever key it came with.
    effects: BTreeMap<i64, u32>,
    repeated: u32,
    refused: u32,
}

impl Receiver {
    fn apply(&mut self, tick: &Tick) -> Result<(), Failure> {
        if tick.term < self.term {
            self.refused += 1;
            return Err(Failure::new(Class::Fenced, "do the effect"));
        }
        self.term = tick.term;
        if self.done.insert(tick.key.clone()) {
            *self.effects.entry(due(tick)).or_default() += 1;
        } else {
            self.repeated += 1;
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn no_due_time_has_two_effects_however_often_the_lease_moves() {
    let pair = Pair::new();
    let receiver = Arc::<Mutex<Receiver>>::default();
    for (duties, way) in pair.duties.iter().zip([3 * SECOND, SECOND]) {
        let receiver = receiver.clone();
        duties.start(&SINGLE, move |tick| {
            let receiver = receiver.clone();
            async move {
                tick.check()?;
                // Under way, and not to be called back: the lease may move meanwhile.
                tokio::time::sleep(way).await;
                let done = lock(&receiver).apply(&tick);
                tokio::time::sleep(SECOND).await;
                done
            }
        });
    }
    let end = Instant::now() + Duration::from_mins(20);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(700)).await;
        if rand::random_bool(0.2) {
            pair.sides[0].fail_over();
        }
    }
    let receiver = lock(&receiver);
    assert!(receiver.effects.values().all(|count| *count == 1), "{receiver:?}");
    assert!(receiver.effects.len() > 60, "{receiver:?}");
    assert!(receiver.repeated > 0 && receiver.refused > 0, "the guards were needed: {receiver:?}");
}

/// Due times that are remembered for both.
#[derive(Debug, Default)]
struct Memory(Mutex<Option<Timestamp>>, Mutex<u32>);

impl DueTimes for Memory {
    fn last(&self, _: &'static str) -> BoxFuture<'_, Result<Option<Timestamp>, Failure>> {
        std::future::ready(Ok(*lock(&self.0))).boxed()
    }

    fn done(&self, _: &'static str, due: Timestamp, _: u64) -> BoxFuture<'_, Result<(), Failure>> {
        let mut broken = lock(&self.1);
        if *broken > 0 {
            *broken -= 1;
            return std::future::ready(Err(Failure::new(Class::TRANSIENT, "remember"))).boxed();
        }
        let mut last = lock(&self.0);
        *last = (*last).max(Some(due));
        std::future::ready(Ok(())).boxed()
    }
}

fn note_all(pair: &Pair, duty: &'static Duty, memory: &Arc<Memory>) {
    for (process, duties) in pair.duties.iter().enumerate() {
        let log = pair.log.clone();
        duties.start_remembered(duty, memory.clone(), move |tick| {
            log.note(format_args!("process {process} due {}", due(&tick)));
            async {
                tokio::time::sleep(SECOND).await;
                Ok(())
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_due_time_that_is_remembered_as_done_is_not_begun_again_and_one_that_is_not_is() {
    let (pair, memory) = (Pair::new(), Arc::<Memory>::default());
    note_all(&pair, &SINGLE, &memory);
    pair.log.first(1).await;
    tokio::time::sleep(2 * SECOND).await;
    pair.sides[0].fail_over();
    assert_eq!(pair.log.first(2).await, ["0.0 process 0 due 0", "7.0 process 1 due 10"]);
    // A pass that has not come to its end.
    *lock(&memory.1) = 1;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    pair.sides[0].fail_over();
    assert_eq!(pair.log.first(3).await[2], "8.5 process 0 due 10", "it could not be remembered, so it is repeated");
}

#[tokio::test(start_paused = true)]
async fn a_start_makes_up_for_what_was_due_while_nobody_ran() {
    const EACH: Duty = Duty { missed: Missed::Each, ..SINGLE };
    let pair = Pair::new();
    let memory = Arc::new(Memory(Mutex::new(Some("2025-12-31T23:59:40Z".parse().unwrap())), Mutex::new(0)));
    note_all(&pair, &EACH, &memory);
    let expected = ["0.0 process 0 due -10", "1.0 process 0 due 0", "7.0 process 0 due 10"];
    assert_eq!(pair.log.first(3).await, expected);
}

/// A lease that cannot be had at first.
#[derive(Debug, Default)]
struct Broken(Mutex<u32>, LocalVolatile);

#[derive(Debug)]
struct LocalVolatile(LocalLeases);

impl Default for LocalVolatile {
    fn default() -> Self {
        Self(LocalLeases::new(VolatileTerms::default()))
    }
}

impl Leases for Broken {
    fn acquire(&self, name: &'static str) -> BoxFuture<'_, Result<Held, Failure>> {
        let mut tries = lock(&self.0);
        *tries += 1;
        if *tries <= 2 {
            return std::future::ready(Err(Failure::new(Class::TRANSIENT, "ask for the lease"))).boxed();
        }
        self.1.0.acquire(name)
    }

    fn standings(&self) -> Vec<Standing> {
        self.1.0.standings()
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_had_is_asked_for_again_with_back_off_and_handed_back_at_the_end() {
    let world = World::new();
    let duties = Duties::new(world.tasks.clone(), world.clock.clone(), Arc::<Broken>::default());
    let log = world.log.clone();
    duties.start(&SINGLE, move |tick| {
        log.note(format_args!("term {}", tick.term));
        async { Ok(()) }
    });
    let first = world.log.first(1).await[0].clone();
    let (at, what) = first.split_once(' ').unwrap();
    assert!((2.9..=6.1).contains(&at.parse::<f64>().unwrap()) && what == "term 1", "{first}");
    assert_eq!(duties.seen()[0].1.failures, BTreeMap::from([(Class::TRANSIENT.as_str(), 2)]));
    assert!(duties.leases()[0].held);
    world.tasks.shutdown(SECOND).await.unwrap();
    assert!(!duties.leases()[0].held);
}
