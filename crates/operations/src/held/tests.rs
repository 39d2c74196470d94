use mainstay_runtime::Tasks;

use super::*;
use crate::fake::{FakeQueue, Renews};

fn attempt() -> Attempt {
    Attempt { id: "o".into(), number: 1 }
}

/// One attempt that is held, and a heartbeat.
struct Beating {
    queue: Arc<FakeQueue>,
    held: Arc<Held>,
    hold: Hold,
    began: Instant,
    tasks: Tasks,
}

impl Beating {
    fn new() -> Self {
        let (queue, held, tasks, began) = (FakeQueue::new([]), Arc::<Held>::default(), Tasks::new(), Instant::now());
        let hold = held.add(attempt(), began, CancellationToken::new());
        let (asked, beaten) = (queue.clone(), held.clone());
        drop(tasks.essential("heartbeat", |stop| heartbeat(beaten, asked, Policy::default(), stop)));
        Self { queue, held, hold, began, tasks }
    }

    fn renewed_ms(&self) -> Vec<u128> {
        self.queue.renewed().iter().map(|at| at.duration_since(self.began).as_millis()).collect()
    }

    /// After how long, from its claim, the attempt was given up.
    async fn given_up(&self) -> Duration {
        tokio::time::timeout(Duration::from_mins(10), self.hold.lost.cancelled()).await.expect("it is given up");
        assert!(self.hold.stop.is_cancelled() && self.hold.cancelled.is_cancelled());
        self.began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_renewed_four_times_a_lease() {
    let beating = Beating::new();
    tokio::time::sleep(Duration::from_millis(12_500)).await;
    assert_eq!(beating.renewed_ms(), [0, 3_000, 6_000, 9_000, 12_000]);
    assert!(!beating.hold.stop.is_cancelled());
    // When nothing is held nobody is asked.
    beating.held.remove(&attempt());
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(beating.renewed_ms().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_gives_up_before_somebody_else_may_begin() {
    let (lease, patience) = (Policy::default().lease, Policy::default().lease * 2 / 3);
    for how in [Renews::Fails, Renews::Hangs] {
        let beating = Beating::new();
        beating.queue.renews(how);
        let after = beating.given_up().await;
        assert!(after >= patience && after < lease, "{how:?}: given up after {after:?}");
    }
    // Counted from the last renewal that was heard.
    let beating = Beating::new();
    tokio::time::sleep(Duration::from_secs(31)).await;
    beating.queue.renews(Renews::Fails);
    let after = beating.given_up().await.saturating_sub(Duration::from_secs(30));
    assert!(after >= patience && after < lease, "given up {after:?} after the last renewal");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_late_is_not_waited_for() {
    let beating = Beating::new();
    beating.queue.renews(Renews::Hangs);
    tokio::time::sleep(Duration::from_secs(4)).await;
    beating.queue.renews(Renews::All(Renewal::Held));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!beating.hold.lost.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn whoever_lost_it_is_told_so_by_the_next_heartbeat() {
    let beating = Beating::new();
    tokio::time::sleep(Duration::from_secs(1)).await;
    beating.queue.renews(Renews::All(Renewal::Lost));
    assert_eq!(beating.given_up().await, Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_is_heard_at_once_and_changes_are_not_run_after() {
    let beating = Beating::new();
    tokio::time::sleep(Duration::from_secs(1)).await;
    beating.queue.renews(Renews::All(Renewal::Cancelled));
    let since = Instant::now();
    for _ in 0..50 {
        beating.queue.changed();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(beating.hold.cancelled.is_cancelled() && !beating.hold.stop.is_cancelled());
    // One for each PACE in half a second, and the one at the beginning.
    assert!(beating.renewed_ms().len() <= 4, "{:?}", beating.renewed_ms());
    assert_eq!(beating.queue.renewed()[1] - since, PACE);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_ends_when_nothing_is_held_and_not_before() {
    let beating = Beating::new();
    beating.tasks.stop();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(!beating.hold.lost.is_cancelled());
    assert_eq!(beating.renewed_ms().last(), Some(&60_000));
    let (since, held) = (Instant::now(), beating.held.clone());
    let let_go = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        held.remove(&attempt());
    };
    let (ended, ()) = tokio::join!(beating.tasks.shutdown(Duration::from_mins(1)), let_go);
    ended.unwrap();
    assert_eq!(since.elapsed(), Duration::from_secs(5));
}
