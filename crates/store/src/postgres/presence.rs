//! That this replica is there, in its row: whoever takes something away from the schema looks at what all who are there know.
//! And what it has seen, in its directory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::shared::Shared;
use crate::error::StoreError;

/// How often it is said. What was not heard of for 30 s is not there, unless it has its lock.
const EVERY: Duration = Duration::from_secs(5);
/// How long the last word may take.
const WORD: Duration = Duration::from_secs(2);

/// Says so until the store is closed, and then that it leaves.
pub(super) async fn keep(shared: Arc<Shared>) {
    let stopping = shared.tasks.stopping();
    while stopping.run_until_cancelled(sleep(EVERY)).await.is_some() && !shared.health.is_closed() {
        tokio::task::block_in_place(|| shared.seen.keep(shared.hub.published()));
        match say(&shared, true).await {
            Ok((oldest, _)) if oldest > shared.knows => {
                shared.end("the schema was contracted to what only newer programs know: this one stops");
            }
            Ok((_, true)) => {}
            // An epoch may have begun, whose terms are others; a write finds out.
            Ok((_, false)) => tracing::debug!("the replica's row is not this process's"),
            Err(error) => tracing::debug!(%error, "that this replica is there could not be said"),
        }
    }
    timeout(WORD, say(&shared, false)).await.ok();
}

/// Gives what a program has to know at least, and whether the name is still this process's.
async fn say(shared: &Shared, there: bool) -> Result<(u32, bool), StoreError> {
    let (replica, term) = (&*shared.options.replica, shared.term.load(Ordering::Acquire));
    let rows = shared
        .work
        .query("SELECT oldest, current FROM mainstay.present_2($1, $2, $3)", &[&replica, &term, &there])
        .await?;
    Ok(rows.first().map_or((0, true), |row| (row.get::<_, i32>(0).unsigned_abs(), row.get(1))))
}
