//! Tells the group of what this process has made ready and has no places for, and acknowledges turns that are used up.

use std::sync::Arc;

use redis::Pipeline;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::{GROUP, Shared, lock};

/// The stream keeps about so many turns.
const MOST_TURNS: u64 = 4_096;
/// The field by which an entry is known to be a turn.
pub(super) const FIELD: &str = "turn";

/// Works until it is told to stop; `told` is of how many operations it was told before. At the end what is to be acknowledged still is.
pub(super) async fn run(
    shared: Arc<Shared>,
    (mut made_ready, mut told): (watch::Receiver<u64>, u64),
    stop: CancellationToken,
) {
    let mut link = Link::default();
    loop {
        let stopping = tokio::select! {
            biased;
            () = stop.cancelled() => true,
            changed = made_ready.changed() => changed.is_err(),
            () = shared.outbox.notified() => false,
        };
        let made = *made_ready.borrow_and_update();
        let turns = shared.keep_own(made.saturating_sub(told)).min(MOST_TURNS);
        told = made;
        let done = std::mem::take(&mut *lock(&shared.done));
        if turns > 0 || !done.is_empty() {
            let sent = link.send(&shared, &commands(&shared, turns, &done)).await;
            // What was not told is known by the store's hints; what was not acknowledged is taken over, and found to be none.
            shared.metrics.count(if sent.is_ok() { "told" } else { "untold" }, turns);
        }
        if stopping {
            return;
        }
    }
}

fn commands(shared: &Shared, turns: u64, done: &[String]) -> Pipeline {
    let mut commands = Pipeline::with_capacity(usize::try_from(turns).unwrap_or(0) + 2);
    let names = &shared.names;
    for _ in 0..turns {
        commands.cmd("XADD").arg(&names.stream).arg("MAXLEN").arg("~").arg(MOST_TURNS).arg("*").arg(FIELD).arg("1");
    }
    if !done.is_empty() {
        commands.cmd("XACK").arg(&names.stream).arg(GROUP).arg(done);
        commands.cmd("XDEL").arg(&names.stream).arg(done);
    }
    commands
}
