//! The terms of leases. One process has the directory, so that process holds whatever it asks for; its terms outlast it.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::lease::Terms;
use mainstay_runtime::{Doing, Failure};
use tokio::sync::oneshot;

use super::jobs::{Failed, Jobs, job};
use super::turn::Turn;
use crate::error::StoreError;
use crate::lease::{Fence, TERMS};

/// Raises terms in the writer's transactions.
#[derive(Debug)]
pub(super) struct Stored(pub(super) Arc<Jobs>);

/// The counter of a lease's newest term.
fn counter(lease: &str) -> String {
    format!("lease/{lease}")
}

impl Terms for Stored {
    fn raise(&self, lease: &'static str) -> BoxFuture<'_, Result<u64, Failure>> {
        let (reply, answer) = oneshot::channel();
        let pushed = self.0.push(job(move |turn| turn.raise_term(lease), reply), 0);
        async move {
            let raised = async {
                pushed?;
                answer.await.unwrap_or(Err(StoreError::Closed))
            };
            raised.await.doing("begin a term")
        }
        .boxed()
    }
}

impl Turn<'_> {
    /// The next term of a lease: above all that there were, of all leases.
    fn raise_term(&self, lease: &str) -> Result<u64, Failed> {
        let counter = counter(lease);
        let (term, newest) = (self.raise(TERMS)?, self.raise(&counter)?);
        let term = term.max(newest);
        let store = "UPDATE counters SET value = ?1 WHERE name IN (?2, ?3)";
        self.connection().prepare_cached(store)?.execute((term, TERMS, &counter))?;
        Ok(term)
    }

    /// Whether the writer's term is the lease's newest.
    pub(super) fn holds(&self, fence: &Fence) -> Result<(), Failed> {
        let newest = "SELECT value = ?2 FROM counters WHERE name = ?1";
        let mut newest = self.connection().prepare_cached(newest)?;
        let mut rows = newest.query((counter(&fence.lease), fence.term))?;
        let holds = match rows.next()? {
            Some(row) => row.get(0)?,
            None => false,
        };
        if holds { Ok(()) } else { Err(Failed::Refused(StoreError::Deposed(fence.clone()))) }
    }
}
