//! Two sets of workers over one store, of which one stands still in the middle of a step, as a process does that is
//! stopped, and goes on when the other has done its work.

use std::time::Duration;

use mainstay_operations::Policy;
use mainstay_store::Store as _;
use mainstay_store::operation::Queue as _;
use serde_json::json;
use tokio::runtime::Builder;
use tokio::time::Instant;

use super::harness::{Bench, new};

/// What issue 3 asks for, of servers that are told to be quick.
const LEASE: Duration = Duration::from_secs(4);
const BOUND: Duration = Duration::from_secs(5);

async fn fenced(bench: &Bench) -> u64 {
    bench.store.queue_figures().await.unwrap().fenced
}

#[test]
fn who_stood_still_changes_nothing_when_it_goes_on() {
    let bench = Bench::new();
    let order = new("one", &["first", "second", "third"]);
    let policy = Policy { lease: LEASE, ..Bench::policy() };
    let go_on = bench.world.blocks();
    std::thread::scope(|scope| {
        // Everything of the zombie's is on one thread: its heartbeat stands still, too.
        let zombie = scope.spawn(|| {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let crew = bench.start(&[("second", &["block"])], policy);
                bench.create(&order).await;
                bench.end(&order).await;
                crew.is_idle().await;
                crew.stop().await;
            });
        });
        Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
            bench.hangs(1).await;
            let (since, crew) = (Instant::now(), bench.start(&[], policy));
            let end = bench.end(&order).await;
            assert!(since.elapsed() <= BOUND, "it ran again after {:?}", since.elapsed());
            assert_eq!((&end["phase"], &end["attempt"]), (&json!("Succeeded"), &json!(2)), "{end}");
            let before = bench.store.get(&order.key()).await.unwrap();
            assert_eq!(fenced(&bench).await, 0);
            drop(go_on);
            zombie.join().unwrap();
            assert!(fenced(&bench).await >= 1, "what it said late was not refused");
            assert_eq!(bench.store.get(&order.key()).await.unwrap(), before);
            crew.stop().await;
        });
    });
    assert_eq!(bench.world.effects(), ["act first", "act second", "act third"]);
}
