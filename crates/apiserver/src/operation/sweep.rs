//! Operations that nobody needs any more go by themselves: those whose owner is gone at once (one that is under way is
//! cancelled first), those that have ended and that nobody has to be told of after a while.
//!
//! The garbage collector leaves operations alone: it keeps the head of every object in memory, and there may be a million
//! of these. The sweep reads them page by page, and goes on the next time where it stopped.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use mainstay_api::operation::{OperationPhase, OperationStatus};
use mainstay_runtime::duty::{Tick, table};
use mainstay_runtime::{Doing, Failure, Timestamp};
use mainstay_store::{Fence, ListQuery, Object, StoreError, Write};
use serde::Deserialize;
use serde_json::Value;

use super::removal::{self, Owner};
use crate::catalog::Entry;
use crate::habits;
use crate::object;
use crate::server::ApiServer;
use crate::status::{About, ApiError, ApiResult};
use crate::verbs::delete;

/// How long one that succeeded or was cancelled can still be looked at: whoever waited for it has seen it by then.
const KEPT: Duration = Duration::from_hours(1);
/// How long a dead letter waits for somebody to look at it, and to replay it: longer than anybody is on leave.
const DEAD_KEPT: Duration = Duration::from_hours(30 * 24);
/// Operations read, judged and removed in one go.
const PAGE: usize = 256;
/// Operations that one pass looks at: some seconds' work, and more than are made meanwhile.
const MOST: usize = 512 * PAGE;

/// Where a key of the page before ended: namespace and name.
type After = Option<(String, String)>;

/// What one pass did.
#[derive(Debug, Clone, Copy, Default)]
struct Swept {
    removed: usize,
    cancelled: usize,
}

/// Starts the duty that sweeps.
pub(crate) fn keep_away(server: &ApiServer) {
    let Some(entry) = server.catalog().of_group(mainstay_api::GROUP, "operations").cloned() else { return };
    let (owned, place) = (server.clone(), Arc::<Mutex<After>>::default());
    server.duties().start(&table::OPERATIONS, move |tick| pass(owned.clone(), entry.clone(), place.clone(), tick));
}

/// One pass: from where the last one stopped, to the end or for as many as one pass looks at.
async fn pass(server: ApiServer, entry: Arc<Entry>, place: Arc<Mutex<After>>, tick: Tick) -> Result<(), Failure> {
    let (mut swept, mut alive) = (Swept::default(), HashSet::new());
    for _ in 0..MOST / PAGE {
        tick.check()?;
        let after = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let next = page((&server, &entry, &tick), after, &mut alive, &mut swept).await.doing("sweep operations")?;
        place.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&next);
        if next.is_none() {
            break;
        }
    }
    let Swept { removed, cancelled } = swept;
    if removed + cancelled > 0 {
        tracing::info!(removed, cancelled, "operations that nobody needs any more were swept");
    }
    Ok(())
}

/// Sweeps one page; gives where the next one begins.
async fn page(
    (server, entry, tick): (&ApiServer, &Entry, &Tick),
    after: After,
    alive: &mut HashSet<Arc<str>>,
    swept: &mut Swept,
) -> ApiResult<After> {
    let failed = |error: &StoreError| ApiError::from_store(error, About { kind: &entry.kind, name: "" });
    let query = ListQuery { scope: entry.scope(None), limit: Some(PAGE), at: None, after };
    let found = server.store().list(query).await.map_err(|error| failed(&error))?.items;
    let next = found.last().filter(|_| found.len() == PAGE);
    let next = next.map(|last| (last.key.namespace.to_string(), last.key.name.to_string()));
    let mut writes = Vec::new();
    for stored in &found {
        writes.extend(judge(server, entry, stored, alive).await?);
    }
    for outcome in join_all(writes.into_iter().map(|write| apply(server, tick, write))).await {
        match outcome {
            Ok(true) => swept.removed += 1,
            Ok(false) => swept.cancelled += 1,
            // Somebody was faster: the next pass looks at it as it is then.
            Err(StoreError::Conflict(_) | StoreError::Missing) => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    Ok(next)
}

async fn apply(server: &ApiServer, tick: &Tick, write: Write) -> Result<bool, StoreError> {
    let removes = matches!(write, Write::Delete { .. });
    let fence = Fence { lease: table::OPERATIONS.name.into(), term: tick.term };
    server.store().write_under(fence, write).await.map(|_| removes)
}

/// What is to be done with one operation; most are left alone without a look at more than their selectable parts.
async fn judge(
    server: &ApiServer,
    entry: &Entry,
    stored: &Object,
    alive: &mut HashSet<Arc<str>>,
) -> ApiResult<Option<Write>> {
    let owners = &stored.meta.owners;
    if !super::shown::ended(stored) && owners.iter().all(|owner| alive.contains(owner)) {
        return Ok(None);
    }
    let operation = object::parse(stored)?;
    let owner = removal::owner(server, &operation).await?;
    if matches!(owner, Owner::Told | Owner::Lives(_)) {
        alive.extend(owners.iter().cloned());
    }
    let ended = super::has_ended(&operation);
    let goes = match owner {
        Owner::Gone => ended || !object::is_deleting(&operation),
        Owner::None | Owner::Told => ended && is_old(&operation, server.clock().now()),
        Owner::Lives(_) => false,
    };
    if !goes {
        return Ok(None);
    }
    let new = delete::marked_by_server(server, entry, &removal::begun(&operation));
    if object::same_but_revision(&operation, &new) {
        return Ok(None);
    }
    let draft = habits::draft(entry, &new)?;
    let (key, expected) = (stored.key.clone(), stored.revision);
    let held = object::is_held(&new);
    Ok(Some(if held { Write::Update { key, draft, expected } } else { Write::Delete { key, draft, expected } }))
}

fn is_old(operation: &Value, now: Timestamp) -> bool {
    let Ok(status) = OperationStatus::deserialize(&operation["status"]) else { return false };
    let kept = if status.phase == OperationPhase::Dead { DEAD_KEPT } else { KEPT };
    status.finished_at.is_some_and(|at| at.0 + kept <= now)
}
