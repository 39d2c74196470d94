//! Makes room, and frees space: partitions of the history that are needed soon, and history that nobody can ask for any more, messages of trimmed or dropped sessions, old batches.
//!
//! Each replica does it, in small statements; the database lets one of them at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::guard::Guard;
use tokio::time::{Instant, sleep};

use super::link::Parameters;
use super::shared::Shared;
use crate::error::StoreError;
use crate::object::Revision;

/// How often there is something to do by itself, and the age of revisions is noted.
const EVERY: Duration = Duration::from_secs(10);
/// The least that compaction by age bothers with.
const LEAST: u64 = 500;
/// Messages that one statement frees.
const BUDGET: i32 = 500;
const COMPACT: &str = "SELECT mainstay.compact_1()";
const MAKE_ROOM: &str = "SELECT mainstay.make_room_1()";
const FREE_MESSAGES: &str = "SELECT mainstay.free_messages_1($1, $2)";
/// Statements between two pauses.
const STRIDE: u32 = 1_000;

pub(super) async fn run(shared: Arc<Shared>) {
    let stopping = shared.tasks.stopping();
    // What the newest revision was at a time, oldest first; and the newest that is old enough to go.
    let (mut samples, mut aged) = (VecDeque::<(Instant, Revision)>::new(), Revision(0));
    while stopping.run_until_cancelled(sleep(EVERY)).await.is_some() {
        let (now, newest) = (Instant::now(), shared.hub.published());
        samples.push_back((now, newest));
        while let Some((at, revision)) = samples.front()
            && now.duration_since(*at) >= shared.options.retain_for
        {
            aged = *revision;
            samples.pop_front();
        }
        let options = &shared.options;
        let by_count = newest.0.saturating_sub(options.retain_changes);
        let floor = aged.0.min(by_count).max(newest.0.saturating_sub(options.retain_at_most));
        if floor >= shared.hub.floor().0 + LEAST
            && let Err(error) = raise_floor(&shared, Revision(floor)).await
        {
            tracing::debug!(%error, "the history was not compacted");
        }
        if let Err(error) = free(&shared).await {
            tracing::debug!(%error, "space was not freed");
        }
    }
}

/// History at or below the floor is given up.
pub(super) async fn raise_floor(shared: &Shared, floor: Revision) -> Result<(), StoreError> {
    let current = shared.hub.published();
    if floor > current {
        return Err(StoreError::Future { asked: floor, current });
    }
    if floor > shared.hub.floor() {
        let rows = shared.chores.query("SELECT mainstay.raise_floor_1($1)", &[&floor.0.cast_signed()]).await?;
        let floor = rows.first().map_or(0, |row| row.get::<_, i64>(0)).cast_unsigned();
        shared.hub.raise_floor(Revision(floor));
    }
    Ok(())
}

/// Everything that can be freed now. What one chore cannot get at, such as a history that somebody dumps, keeps no other.
pub(super) async fn free(shared: &Shared) -> Result<(), StoreError> {
    let window = i64::try_from(shared.options.id_window).unwrap_or(i64::MAX);
    let room = shared.chores.query(MAKE_ROOM, &[]).await.map(drop);
    let compacted = if Guard::Compaction.holds() { repeat(shared, COMPACT, &[]).await } else { Ok(()) };
    let freed = repeat(shared, FREE_MESSAGES, &[&BUDGET, &window]).await;
    let purged = shared.chores.query("SELECT mainstay.purge_1()", &[]).await.map(drop);
    room.and(compacted).and(freed).and(purged)
}

/// As often as there is something left to do.
async fn repeat(shared: &Shared, sql: &'static str, parameters: Parameters<'_>) -> Result<(), StoreError> {
    for _ in 0..STRIDE {
        let rows = shared.chores.query(sql, parameters).await?;
        if !rows.first().is_some_and(|row| row.get(0)) || shared.tasks.stopping().is_cancelled() {
            break;
        }
    }
    Ok(())
}
