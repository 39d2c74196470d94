//! Two machines with one identity: a copy of a directory, as a cloned disk has it. One is the node, and they do not take turns.

use rustix::process::Signal;
use tokio::time::Instant;

use crate::stage::{PATIENCE, Stage, holder, lease, ready};

const WAITS: &str = "another machine may be this node";

/// Waits until the node's lease was renewed so many times, 3 s apart, all by the same agent in the same term.
fn stays(stage: &Stage, renewals: usize) {
    let ((term, who, mut at), end) = (lease(stage, "box-1"), Instant::now() + PATIENCE);
    let mut seen = 0;
    while seen < renewals {
        let now = lease(stage, "box-1");
        assert_eq!((now.0, &now.1), (term, &who), "another has taken it");
        if now.2 != at {
            (seen, at) = (seen + 1, now.2);
        }
        assert!(Instant::now() < end, "it is not renewed");
    }
}

/// Waits until the node's lease is in this term.
fn until_term(stage: &Stage, term: u64) {
    let end = Instant::now() + PATIENCE;
    while holder(stage, "box-1").0 != term {
        assert!(Instant::now() < end, "{:?} and not {term}", lease(stage, "box-1"));
    }
}

#[test]
fn of_a_machine_and_its_copy_one_is_the_node_until_it_is_silent_and_then_the_other() {
    let stage = Stage::new();
    let mut one = stage.machine("box-1");
    let mut copy = one.copied();
    // The lock in the directory does not see it; the lease does. It lasts for four renewals.
    let said = copy.spawn(None);
    copy.says(WAITS, 1);
    stays(&stage, 6);
    assert_eq!(holder(&stage, "box-1").0, 1);
    one.signal(Signal::STOP);
    until_term(&stage, 2);
    stage.until("nodes", "box-1", |node| ready(node) == Some(true));
    one.signal(Signal::CONT);
    assert_eq!(one.wait(), Some(4), "{}", one.log_text());
    one.says("term of this node's agent is over", 1);
    // Whatever starts it again: now it is the one that waits.
    let again = one.spawn(None);
    one.says(WAITS, 1);
    stays(&stage, 6);
    assert_eq!(holder(&stage, "box-1").0, 2);
    copy.kill();
    until_term(&stage, 3);
    // In its own place nobody waits.
    one.kill();
    let began = Instant::now();
    one.start(None);
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    assert_eq!((holder(&stage, "box-1").0, one.log_text().matches(WAITS).count()), (4, 1));
    drop((said, again));
}
