//! Messages and run rows of sessions that are gone. A deletion removes them itself, on a task behind it; what a crash,
//! a full disk or an append that crossed the deletion left behind is removed at the start, and then every hour.

use std::collections::HashSet;
use std::sync::Arc;

use mainstay_runtime::duty::{Tick, table};
use mainstay_runtime::{Doing, Failure};
use mainstay_store::ListQuery;

use crate::catalog::Entry;
use crate::server::ApiServer;
use crate::sub::heartbeat;

/// Starts the duty that sweeps.
pub(crate) fn keep_away(server: &ApiServer) {
    let Some(entry) = server.catalog().of_group(mainstay_api::GROUP, "sessions").cloned() else { return };
    let owned = server.clone();
    server.duties().start(&table::LEFTOVERS, move |tick| sweep(owned.clone(), entry.clone(), tick));
}

/// Removes what belongs to no session.
async fn sweep(server: ApiServer, entry: Arc<Entry>, tick: Tick) -> Result<(), Failure> {
    const DOING: &str = "remove messages of sessions that are gone";
    // In this order: what is kept of a session was put after the session was there.
    let kept = server.store().sessions().await.doing(DOING)?;
    let query = ListQuery { scope: entry.scope(None), limit: None, at: None, after: None };
    let sessions = server.store().list(query).await.doing(DOING)?.items;
    let alive: HashSet<&str> = sessions.iter().map(|session| &*session.meta.uid).collect();
    let gone: Vec<Arc<str>> = kept.into_iter().filter(|name| !alive.contains(heartbeat::session_of(name))).collect();
    for name in &gone {
        tick.check()?;
        server.store().drop_session(name).await.doing(DOING)?;
    }
    if !gone.is_empty() {
        tracing::info!(count = gone.len(), "messages of sessions that are gone were removed");
    }
    Ok(())
}
