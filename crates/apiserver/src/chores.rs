//! What a server does beside answering: a task for each chore, done at the start and then at its own pace.

use std::future::Future;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::server::ApiServer;

/// Does `chore` now and after each `pause`, one after the other, until the server stops.
pub(crate) fn every<F>(
    server: &ApiServer,
    name: &'static str,
    pause: Duration,
    mut chore: impl FnMut() -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let stop = server.tasks().stopping();
    drop(server.tasks().spawn(name, async move {
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            chore().await;
        }
    }));
}
