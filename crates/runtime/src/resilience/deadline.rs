//! An end to every call.

use std::future::Future;
use std::time::Duration;

use tower::Service;

use super::layer::Around;
use super::{CallFailure, Denied};
use crate::sync::Arc;

/// Calls end after this, without an answer. A stream's body has an idle bound of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(pub Duration);

impl Deadline {
    /// Runs one call.
    ///
    /// # Errors
    /// The call's own, or [`Denied::TooLate`]: what was asked for may have been done.
    ///
    /// # Cancel safety
    /// The call is dropped, at the deadline as by the caller.
    pub async fn run<T, E: From<Denied>>(self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        match tokio::time::timeout(self.0, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Denied::TooLate(self.0).into()),
        }
    }
}

impl<S, R> Around<S, R> for Deadline
where
    S: Service<R> + Send + 'static,
    S::Error: CallFailure,
    S::Future: Send,
    R: Send + 'static,
{
    type Response = S::Response;

    async fn call(self: Arc<Self>, mut inner: S, request: R) -> Result<S::Response, S::Error> {
        self.run(inner.call(request)).await
    }
}
