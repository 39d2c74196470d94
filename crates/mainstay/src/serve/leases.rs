//! The terms of leases, kept in the store. A store has one process, so that process holds whatever it asks for.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::lease::Terms;
use mainstay_runtime::{Doing, Failure};
use mainstay_store::Store;

/// A counter of the store for each lease.
pub(super) struct StoredTerms(pub(super) Arc<dyn Store>);

impl Terms for StoredTerms {
    fn raise(&self, lease: &'static str) -> BoxFuture<'_, Result<u64, Failure>> {
        async move { self.0.raise(&format!("lease/{lease}")).await.doing("begin a term") }.boxed()
    }
}

impl fmt::Debug for StoredTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredTerms")
    }
}
