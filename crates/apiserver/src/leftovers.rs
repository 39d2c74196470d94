//! Messages and run rows of sessions that are gone. A deletion removes them itself, on a task behind it; what a crash,
//! a full disk or an append that crossed the deletion left behind is removed at the start, and then every hour.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use mainstay_store::{ListQuery, StoreError};

use crate::catalog::Entry;
use crate::chores;
use crate::server::ApiServer;
use crate::sub::heartbeat;

const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// Starts the task that sweeps.
pub(crate) fn keep_away(server: &ApiServer) {
    let Some(entry) = server.catalog().of_group(mainstay_api::GROUP, "sessions").cloned() else { return };
    let owned = server.clone();
    chores::every(server, "leftovers", SWEEP_EVERY, move || look(owned.clone(), entry.clone()));
}

async fn look(server: ApiServer, entry: Arc<Entry>) {
    match sweep(&server, &entry).await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "messages of sessions that are gone were removed"),
        Err(error) => tracing::warn!(%error, "messages of sessions that are gone could not be removed"),
    }
}

/// Removes what belongs to no session; gives how many names it was kept under.
async fn sweep(server: &ApiServer, entry: &Entry) -> Result<usize, StoreError> {
    // In this order: what is kept of a session was put after the session was there.
    let kept = server.store().sessions().await?;
    let query = ListQuery { scope: entry.scope(None), limit: None, at: None, after: None };
    let sessions = server.store().list(query).await?.items;
    let alive: HashSet<&str> = sessions.iter().map(|session| &*session.meta.uid).collect();
    let gone: Vec<Arc<str>> = kept.into_iter().filter(|name| !alive.contains(heartbeat::session_of(name))).collect();
    for name in &gone {
        server.store().drop_session(name).await?;
    }
    Ok(gone.len())
}
