//! Reads changes that have left the ring.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;

use super::rows;
use super::shared::Shared;
use crate::error::StoreError;
use crate::object::Revision;
use crate::watch::{Replay, ReplayPage, Scope, WatchEnd};

/// See the module.
#[derive(Debug)]
pub(super) struct History(pub(super) Arc<Shared>, pub(super) Handle);

impl Replay for History {
    fn page(&self, scope: Scope, after: Revision, upto: Revision) -> BoxFuture<'static, Result<ReplayPage, WatchEnd>> {
        let shared = Arc::clone(&self.0);
        let _inside = self.1.enter();
        let reading = self.0.tasks.spawn("store replay", async move {
            let page = rows::replay(&shared.readers, &scope, after, upto).await;
            page.map_err(|error| match error {
                StoreError::Expired { .. } => WatchEnd::Expired,
                error => {
                    tracing::warn!(%error, "a watch ends: history cannot be read");
                    WatchEnd::Closed
                }
            })
        });
        async move { reading.await.unwrap_or(Err(WatchEnd::Closed)) }.boxed()
    }
}
