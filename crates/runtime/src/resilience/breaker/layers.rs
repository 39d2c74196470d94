//! A breaker around calls, twice: before they wait for a place, and once they have it.
//!
//! So nobody waits for what would be refused, nobody is sent to a backend that was given up while they waited, and how
//! long a call takes is counted without the wait, which is not the backend's.

use tokio::time::Instant;
use tower::Service;

use super::super::layer::Around;
use super::super::{CallFailure, Verdict};
use super::Breaker;
use crate::sync::Arc;

/// Refuses what the breaker refuses now; lets nothing through on its behalf.
#[derive(Debug)]
pub struct Ahead(pub Arc<Breaker>);

impl<S, R> Around<S, R> for Ahead
where
    S: Service<R> + Send + 'static,
    S::Error: CallFailure,
    S::Future: Send,
    R: Send + 'static,
{
    type Response = S::Response;

    async fn call(self: Arc<Self>, mut inner: S, request: R) -> Result<S::Response, S::Error> {
        if let Some(refusal) = self.0.refusal(Instant::now()) {
            return Err(refusal.into());
        }
        inner.call(request).await
    }
}

impl<S, R> Around<S, R> for Breaker
where
    S: Service<R> + Send + 'static,
    S::Error: CallFailure,
    S::Future: Send,
    R: Send + 'static,
{
    type Response = S::Response;

    async fn call(self: Arc<Self>, mut inner: S, request: R) -> Result<S::Response, S::Error> {
        let pass = self.admit(Instant::now())?;
        let outcome = inner.call(request).await;
        pass.settle(Verdict::of(&outcome), Instant::now());
        outcome
    }
}
