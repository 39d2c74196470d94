//! Over a real Redis.

use std::time::Duration;

use mainstay_runtime::Tasks;
use mainstay_testkit::redis::{Keeps, Redis};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{Address, Metrics, Turns};

/// No wait is longer than this.
const PATIENCE: Duration = Duration::from_secs(30);
const STREAM: &str = "mainstay:{here}:turns";
const DEAD: &str = "mainstay:{here}:dead-turns";
const GROUP: &str = super::GROUP;

struct Replica {
    turns: Turns,
    tasks: Tasks,
    made: watch::Sender<u64>,
}

/// One that tells and takes.
fn replica(redis: &Redis, name: &str) -> Replica {
    let turns = Turns::new(Address::parse(&redis.url()).unwrap(), "here", name, Metrics::default());
    let (tasks, made) = (Tasks::new(), watch::Sender::new(0));
    turns.tell(&tasks, made.subscribe());
    turns.take(&tasks);
    Replica { turns, tasks, made }
}

impl Replica {
    fn makes_ready(&self, operations: u64) {
        self.made.send_modify(|made| *made += operations);
    }

    /// Waits with so many places free, and uses up what comes: gives the turns.
    async fn takes(&self, free: usize) -> Vec<String> {
        timeout(PATIENCE, self.turns.arrived(free)).await.expect("a turn");
        let hand = self.turns.hand();
        let turns = hand.turns.taken.clone();
        hand.acknowledge();
        turns
    }

    /// Waits for as long as who was hinted at something has to.
    async fn hinted(&self) {
        timeout(PATIENCE, self.turns.overdue()).await.expect("a hint is heeded");
    }

    /// Waits until turns are coming, or are not.
    async fn coming(&self, coming: bool) {
        let mut known = self.turns.shared.coming.subscribe();
        timeout(PATIENCE, known.wait_for(|known| *known == coming)).await.expect("a change").unwrap();
    }

    async fn ends(self) {
        self.tasks.shutdown(PATIENCE).await.unwrap();
    }
}

/// Waits until a command is answered so.
async fn until(redis: &Redis, command: &[&str], answer: &str) {
    let begun = Instant::now();
    loop {
        let found = redis.ask(command).unwrap();
        if found == answer {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{command:?}: {found}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Puts so many turns into the stream, has somebody take them who never uses them, and lets them lie for a minute.
fn left_behind(redis: &Redis, count: usize, taken: usize) {
    redis.ask(&["XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM"]).unwrap();
    for _ in 0..count {
        redis.ask(&["XADD", STREAM, "*", "turn", "1"]).unwrap();
    }
    let ids = redis.ask(&["XREADGROUP", "GROUP", GROUP, "dead", "STREAMS", STREAM, ">"]).unwrap();
    let ids: Vec<&str> = ids.lines().filter(|line| line.contains('-')).collect();
    assert_eq!(ids.len(), count);
    let taken = taken.to_string();
    let mut age = vec!["XCLAIM", STREAM, GROUP, "dead", "0"];
    age.extend(ids);
    age.extend(["IDLE", "60000", "RETRYCOUNT", &taken, "JUSTID"]);
    redis.ask(&age).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_is_told_taken_once_and_used_up() {
    let redis = Redis::start(Keeps::Nothing).unwrap();
    let (a, b, c) = (replica(&redis, "a"), replica(&redis, "b"), replica(&redis, "c"));
    a.makes_ready(100);
    let mut turns = std::collections::BTreeSet::new();
    let mut count = 0;
    while count < 100 {
        let more = tokio::select! { more = b.takes(10) => more, more = c.takes(10) => more };
        assert!(more.len() <= 10, "{} places, and {} turns", 10, more.len());
        count += more.len();
        turns.extend(more);
    }
    assert_eq!((count, turns.len()), (100, 100));
    until(&redis, &["XLEN", STREAM], "0").await;
    until(&redis, &["XPENDING", STREAM, GROUP], "0").await;
    for one in [a, b, c] {
        one.ends().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_a_turn_who_does_not_wait() {
    let redis = Redis::start(Keeps::Nothing).unwrap();
    let (busy, free) = (replica(&redis, "busy"), replica(&redis, "free"));
    busy.makes_ready(1);
    assert_eq!(free.takes(1).await.len(), 1);
    busy.makes_ready(1);
    until(&redis, &["XLEN", STREAM], "1").await;
    assert_eq!(redis.ask(&["XPENDING", STREAM, GROUP]).unwrap().lines().next(), Some("0"));
    assert!(busy.turns.hand().turns.is_empty() && free.turns.hand().turns.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_makes_ready_and_has_places_for_it_tells_nobody() {
    let redis = Redis::start(Keeps::Nothing).unwrap();
    let (one, other) = (replica(&redis, "one"), replica(&redis, "other"));
    tokio::join!(one.turns.arrived(3), async { one.makes_ready(5) });
    let hand = one.turns.hand();
    assert_eq!((hand.turns.own, hand.turns.taken.len()), (3, 0));
    // A claim that fails has used none.
    drop(hand);
    timeout(PATIENCE, one.turns.arrived(3)).await.expect("what is at hand");
    let hand = one.turns.hand();
    assert_eq!(hand.turns.own, 3);
    hand.acknowledge();
    assert!(one.turns.hand().turns.is_empty());
    let mut others = other.takes(10).await.len();
    while others < 2 {
        others += other.takes(10).await.len();
    }
    assert_eq!(others, 2, "what there are no places for");
    until(&redis, &["XLEN", STREAM], "0").await;
    one.makes_ready(1);
    assert_eq!(other.takes(10).await.len(), 1, "nobody waits where it was made ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_used_is_at_hand_again() {
    let redis = Redis::start(Keeps::Nothing).unwrap();
    let (one, teller) = (replica(&redis, "one"), replica(&redis, "teller"));
    teller.makes_ready(1);
    timeout(PATIENCE, one.turns.arrived(1)).await.unwrap();
    let turns = one.turns.hand().turns.taken.clone();
    assert_eq!(one.takes(1).await, turns, "the claim had failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dead_took_is_taken_over_page_by_page() {
    let redis = Redis::start(Keeps::Nothing).unwrap();
    left_behind(&redis, 25, 1);
    // Trimmed away, and still said to be taken: a page without a turn, and not the last.
    redis.ask(&["XTRIM", STREAM, "MAXLEN", "5"]).unwrap();
    let heir = replica(&redis, "heir");
    let mut turns = Vec::new();
    while turns.len() < 5 {
        turns.extend(heir.takes(3).await);
    }
    assert_eq!(turns.len(), 5);
    until(&redis, &["XLEN", STREAM], "0").await;
    until(&redis, &["XPENDING", STREAM, GROUP], "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_again_and_again_is_dead_and_so_is_what_is_no_turn() {
    let redis = Redis::start(Keeps::Nothing).unwrap();
    left_behind(&redis, 2, super::take::MOST_TAKEN);
    redis.ask(&["XADD", STREAM, "*", "surprise", "1"]).unwrap();
    let (one, teller) = (replica(&redis, "one"), replica(&redis, "teller"));
    teller.makes_ready(1);
    assert_eq!(one.takes(10).await.len(), 1, "the one that is one");
    until(&redis, &["XLEN", DEAD], "3").await;
    until(&redis, &["XLEN", STREAM], "0").await;
    let said = redis.ask(&["XRANGE", DEAD, "-", "+"]).unwrap();
    assert!(said.contains("it is no turn") && said.contains("it was taken again and again"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_gone_is_made_anew() {
    let redis = Redis::start(Keeps::Nothing).unwrap();
    let (one, teller) = (replica(&redis, "one"), replica(&redis, "teller"));
    teller.makes_ready(1);
    one.takes(1).await;
    for _ in 0..3 {
        // Also while somebody waits for more.
        let (turns, ()) = tokio::join!(one.takes(1), async {
            redis.flush().unwrap();
            teller.makes_ready(1);
        });
        assert_eq!(turns.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_hints_are_heeded_at_once_and_turns_come_again_with_it() {
    let mut redis = Redis::start(Keeps::Nothing).unwrap();
    let (one, teller) = (replica(&redis, "one"), replica(&redis, "teller"));
    // Nothing has been taken yet: who waits is not made to.
    one.hinted().await;
    teller.makes_ready(1);
    one.takes(1).await;
    one.coming(true).await;
    redis.kill9().unwrap();
    tokio::select! {
        _ = one.takes(1) => panic!("there is nothing"),
        () = one.coming(false) => {}
    }
    teller.makes_ready(1);
    let begun = Instant::now();
    for _ in 0..100 {
        one.hinted().await;
    }
    assert!(begun.elapsed() < super::GRACE * 10, "each of a hundred waited: {:?}", begun.elapsed());
    redis.restart().unwrap();
    tokio::select! {
        _ = one.takes(1) => panic!("what was told meanwhile is lost"),
        () = one.coming(true) => {}
    }
    teller.makes_ready(1);
    one.takes(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_does_not_answer_is_one_that_is_away() {
    let mut redis = Redis::start(Keeps::Nothing).unwrap();
    let (one, teller) = (replica(&redis, "one"), replica(&redis, "teller"));
    teller.makes_ready(1);
    one.takes(1).await;
    one.coming(true).await;
    redis.pause().unwrap();
    tokio::select! {
        _ = one.takes(1) => panic!("nobody answers"),
        () = one.coming(false) => {}
    }
    redis.resume().unwrap();
    tokio::select! {
        _ = one.takes(1) => panic!("there is nothing"),
        () = one.coming(true) => {}
    }
    redis.pause().unwrap();
    one.ends().await;
    redis.resume().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_does_not_grow_for_ever() {
    let redis = Redis::start(Keeps::Nothing).unwrap();
    let one = replica(&redis, "one");
    for _ in 0..10 {
        let before = one.turns.shared.metrics.told();
        one.makes_ready(10_000);
        while one.turns.shared.metrics.told() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let length: u64 = redis.ask(&["XLEN", STREAM]).unwrap().parse().unwrap();
    // About: Redis trims by whole nodes, of a hundred entries.
    assert!((4_096..4_096 + 200).contains(&length), "{length}");
}
