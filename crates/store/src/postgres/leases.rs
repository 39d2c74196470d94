//! The table of leases in the database, and the session whose locks say that its replica's connection is there.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use mainstay_runtime::guard::Guard;

use super::awaited::Awaited;
use super::link::{Link, Parameters, Session};
use super::shared::{LEASES, Shared};
use super::{rows, schema};
use crate::error::StoreError;
use crate::leases::{Observed, Row, Table, Word};

/// How often it is looked where the end of a leader's session is told.
const LOOK: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Stored {
    shared: Arc<Shared>,
    link: Link,
    /// The session that has the lock, and its number in the database; `None` behind a pooler.
    session: Option<(Arc<Session>, Option<i32>)>,
    awaited: Awaited,
}

impl Stored {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let what = if Guard::Reserved.holds() { "leads" } else { "reads leases" };
        let name = format!("mainstay {} {what}", shared.options.replica);
        let link = Link::new(&shared.options.address, name, &shared.connections, None);
        let awaited = Awaited::new(Arc::clone(&shared));
        Self { shared, link, session: None, awaited }
    }

    fn backend(&self) -> Option<i32> {
        self.session.as_ref().and_then(|(_, backend)| *backend)
    }

    /// Takes the session's lock on a connection that is new. One that a pooler hands around keeps none.
    async fn lock(&mut self) -> Result<bool, StoreError> {
        let session = self.link.session().await?;
        if self.session.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, &session)) {
            return Ok(false);
        }
        let backend = if session.is_own() {
            let locks = "SELECT pg_backend_pid(), pg_try_advisory_lock_shared(19795, hashtext($1)),
                pg_try_advisory_lock(19796, pg_backend_pid())";
            let row = self.link.one(locks, &[&&*self.shared.options.replica]).await?;
            if !row.get::<_, bool>(2) {
                // Who waits for the end of an earlier session of this number goes in a moment.
                self.link.hang_up().await;
                return Err(StoreError::Busy);
            }
            Some(row.get(0))
        } else {
            tracing::warn!(
                "the database is behind a transaction pooler: that a leader is gone is seen only after 10 s, and what other \
                 replicas write after a quarter of a second"
            );
            let set = "SELECT current_setting('enable_seqscan') = 'off'";
            if !self.link.one(set, &[]).await?.get::<_, bool>(0) {
                tracing::warn!(
                    "the role lacks the settings that docs/operations.md names for a pooler: reads may be slow"
                );
            }
            None
        };
        self.session = Some((session, backend));
        Ok(true)
    }
}

/// Behind a pooler a holder has none that is known: only its silence tells of its end.
fn has_session(row: &tokio_postgres::Row) -> bool {
    row.get::<_, Option<i32>>("backend").is_some()
}

impl Table for Stored {
    fn sit(&mut self) -> Word<'_, bool> {
        self.lock().boxed()
    }

    fn observe(&self) -> Word<'_, Observed> {
        async move {
            let rows = self.link.query("SELECT * FROM mainstay.observe_1()", &[]).await?;
            let replicas = rows.first().map_or(1, |row| row.get::<_, i64>("replicas")).max(1);
            let row = |row: &tokio_postgres::Row| Row {
                name: row.get("name"),
                term: row.get("term"),
                renewed: row.get("renewed"),
                gone: ["", &*self.shared.options.replica].contains(&row.get("holder"))
                    || (self.backend().is_some() && has_session(row) && !row.get::<_, bool>("alive")),
            };
            if let Some(own) = self.backend() {
                let others = rows.iter().filter(|row| row.get("alive")).filter_map(|row| row.get("backend"));
                self.awaited.these(&others.filter(|backend| *backend != own).collect::<HashSet<i32>>());
            }
            Ok(Observed { leases: rows.iter().map(row).collect(), replicas: usize::try_from(replicas).unwrap_or(1) })
        }
        .boxed()
    }

    fn take(&self, name: &'static str, seen: Option<(i64, i64)>) -> Word<'_, Option<i64>> {
        async move {
            let (term, renewed) = seen.unzip();
            let sql = "SELECT term, revision FROM mainstay.take_lease_1($1, $2, $3, $4, $5)";
            let parameters: Parameters<'_> = &[&name, &&*self.shared.options.replica, &self.backend(), &term, &renewed];
            let row = match self.link.one(sql, parameters).await {
                Err(failure) if schema::has_moved(&failure) => {
                    self.shared.enter(&self.shared.link).await?;
                    return Ok(None);
                }
                taken => taken?,
            };
            let Some(term) = row.get(0) else { return Ok(None) };
            // Whoever leads has seen what those before it wrote.
            Arc::clone(&self.shared).reach(rows::revision(&row, 1)).await?;
            Ok(Some(term))
        }
        .boxed()
    }

    fn renew<'a>(&'a self, names: &'a [&'static str], terms: &'a [i64]) -> Word<'a, Vec<String>> {
        async move {
            let parameters: Parameters<'_> = &[&names, &terms, &self.backend()];
            let row = self.link.one("SELECT mainstay.renew_leases_1($1, $2, $3)", parameters).await?;
            Ok(row.get(0))
        }
        .boxed()
    }

    fn release(&self, name: &'static str, term: i64) -> Word<'_, ()> {
        async move {
            self.link.query("SELECT mainstay.release_lease_1($1, $2)", &[&name, &term]).await?;
            Ok(())
        }
        .boxed()
    }

    fn looks(&self) -> Duration {
        if self.backend().is_some() { LOOK } else { crate::leases::LOOK }
    }

    fn tell(&self) {
        self.shared.outbound.raise(LEASES);
    }

    fn hang_up(&mut self) -> BoxFuture<'_, ()> {
        self.session = None;
        self.link.hang_up().boxed()
    }

    fn is_over(&self) -> bool {
        self.shared.health.is_closed()
    }
}
