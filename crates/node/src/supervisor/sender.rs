//! Sends the outbox: each message until it is accepted, in order.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde::de::IgnoredAny;

use super::api::{Api, ApiError, Pace};
use super::outbox::Outbox;

/// Sends until the outbox is closed and empty.
pub(crate) async fn send_all(mut api: Api, outbox: Arc<Outbox>) {
    let mut pace = Pace::new();
    let mut limit = usize::MAX;
    while let Some(batch) = outbox.batch(limit).await {
        match api.call::<IgnoredAny>(Method::POST, "/messages", Bytes::clone(&batch.body)).await {
            Ok(_) => {
                outbox.accepted(batch.count);
                (pace, limit) = (Pace::new(), usize::MAX);
            }
            // One of them is not acceptable: find out which, so that it holds up no other.
            Err(ApiError::Refused(..)) if batch.count > 1 => limit = 1,
            Err(error @ ApiError::Refused(..)) => {
                writeln!(std::io::stderr(), "[mainstay: a message was refused; it is in this log only: {error}]").ok();
                outbox.accepted(1);
            }
            // Meanwhile the outbox fills, and then the agent process's own writes wait.
            Err(ApiError::Later(wait)) => tokio::time::sleep(wait).await,
            Err(ApiError::Away(_)) => pace.pause().await,
        }
    }
}
