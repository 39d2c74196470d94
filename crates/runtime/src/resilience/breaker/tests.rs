use super::*;

const SETTINGS: Settings = Settings {
    window: Duration::from_secs(10),
    at_least: 4,
    failed_percent: 50,
    slow_percent: 75,
    slow: Duration::from_secs(2),
    open_for: Duration::from_secs(30),
    successes: 2,
};

/// A breaker, its changes of state, and a time of its own.
struct World {
    breaker: Arc<Breaker>,
    changes: Arc<Mutex<Vec<Change>>>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (changes, now) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        let seen = Arc::clone(&changes);
        let breaker = Breaker::new(SETTINGS, now).on_change(move |change| lock(&seen).push(change));
        Self { breaker: Arc::new(breaker), changes, now }
    }

    fn pass(&self) -> Pass {
        self.breaker.admit(self.now).unwrap()
    }

    fn call(&mut self, verdict: Verdict) {
        self.pass().settle(verdict, self.now);
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn open(&mut self) {
        for _ in 0..SETTINGS.at_least {
            self.call(Verdict::Sick);
        }
        assert_eq!(self.breaker.state(), State::Open);
    }

    fn changes(&self) -> Vec<(State, State)> {
        lock(&self.changes).iter().map(|change| (change.from, change.to)).collect()
    }
}

#[test]
fn it_opens_when_half_of_at_least_four_calls_failed() {
    let mut world = World::new();
    for verdict in [Verdict::Sick, Verdict::Sick, Verdict::Sick] {
        world.call(verdict);
    }
    assert_eq!(world.breaker.state(), State::Closed, "three tell too little");
    world.call(Verdict::Well);
    assert_eq!(world.breaker.state(), State::Open);
    assert_eq!(world.changes(), [(State::Closed, State::Open)]);
    let mut world = World::new();
    for _ in 0..20 {
        world.call(Verdict::Well);
        world.call(Verdict::Well);
        world.call(Verdict::Sick);
    }
    assert_eq!(world.breaker.state(), State::Closed, "a third is not half");
}

#[test]
fn what_is_long_ago_no_longer_counts() {
    let mut world = World::new();
    for _ in 0..3 {
        world.call(Verdict::Sick);
    }
    world.later(11);
    for _ in 0..3 {
        world.call(Verdict::Sick);
    }
    assert_eq!(world.breaker.state(), State::Closed);
    world.later(9);
    world.call(Verdict::Sick);
    assert_eq!(world.breaker.state(), State::Open, "these four are within ten seconds");
}

#[test]
fn slow_calls_open_it_too() {
    let mut world = World::new();
    for _ in 0..4 {
        let pass = world.pass();
        world.later(1);
        pass.settle(Verdict::Well, world.now + Duration::from_millis(1_500));
    }
    assert_eq!(world.breaker.state(), State::Open);
}

#[test]
fn one_probe_at_a_time_and_two_close_it() {
    let mut world = World::new();
    world.open();
    world.later(29);
    assert_eq!(world.breaker.admit(world.now).unwrap_err(), Denied::Open { retry_in: Duration::from_secs(1) });
    world.later(1);
    let probe = world.pass();
    assert_eq!(world.breaker.admit(world.now).unwrap_err(), Denied::Open { retry_in: Duration::ZERO });
    probe.settle(Verdict::Well, world.now);
    assert_eq!(world.breaker.state(), State::HalfOpen);
    world.call(Verdict::Answered);
    assert_eq!(world.breaker.state(), State::Closed);
    assert_eq!(
        world.changes(),
        [(State::Closed, State::Open), (State::Open, State::HalfOpen), (State::HalfOpen, State::Closed)]
    );
}

#[test]
fn a_probe_that_fails_or_is_slow_opens_it_for_another_while() {
    for slow in [false, true] {
        let mut world = World::new();
        world.open();
        world.later(30);
        world.call(Verdict::Well);
        let probe = world.pass();
        let end = world.now + Duration::from_secs(if slow { 3 } else { 0 });
        probe.settle(if slow { Verdict::Well } else { Verdict::Sick }, end);
        assert_eq!(world.breaker.state(), State::Open);
        world.now = end + Duration::from_secs(29);
        world.breaker.admit(world.now).unwrap_err();
        world.later(1);
        world.call(Verdict::Well);
        world.call(Verdict::Well);
        assert_eq!(world.breaker.state(), State::Closed, "successes are counted anew");
    }
}

#[test]
fn a_straggler_changes_nothing() {
    let mut world = World::new();
    let (good, bad) = (world.pass(), world.pass());
    world.open();
    good.settle(Verdict::Well, world.now);
    assert_eq!(world.breaker.state(), State::Open, "a success from before does not close it");
    world.later(30);
    let probe = world.pass();
    bad.settle(Verdict::Sick, world.now);
    assert_eq!(world.breaker.state(), State::HalfOpen, "a failure from before does not speak for the probe");
    world.breaker.admit(world.now).unwrap_err();
    probe.settle(Verdict::Well, world.now);
    world.call(Verdict::Well);
    assert_eq!(world.breaker.state(), State::Closed);
}

#[test]
fn a_probe_that_tells_nothing_makes_room_for_the_next() {
    let mut world = World::new();
    world.open();
    world.later(30);
    drop(world.pass());
    world.call(Verdict::Unknown);
    world.call(Verdict::Well);
    world.call(Verdict::Well);
    assert_eq!(world.breaker.state(), State::Closed);
}

#[test]
fn a_listener_may_ask_the_breaker_and_may_panic() {
    let asked: Arc<Mutex<Option<Arc<Breaker>>>> = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&asked);
    let breaker = Arc::new(Breaker::new(SETTINGS, Instant::now()).on_change(move |change| {
        let breaker = lock(&seen).clone().unwrap();
        assert_eq!(breaker.state(), change.to, "it is called without the lock");
        panic!("as told");
    }));
    *lock(&asked) = Some(Arc::clone(&breaker));
    for _ in 0..SETTINGS.at_least {
        breaker.admit(Instant::now()).unwrap().settle(Verdict::Sick, Instant::now());
    }
    assert_eq!(breaker.state(), State::Open);
    lock(&asked).take();
}
