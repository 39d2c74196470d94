//! An end to every call.
//!
//! It is the earlier of two: what a call of its class may take, and what its caller has left. No answer by then is the
//! backend's doing if it had the time that makes a call slow; with less, it is the caller's ([`Denied::GivenUp`]).

use std::time::Duration;

use tokio::time::Instant;
use tower::Service;

use super::layer::Around;
use super::{CallFailure, Denied};
use crate::sync::Arc;

/// A request that knows for how long its caller waits.
pub trait Bounded {
    /// Until then; `None`: as long as it takes.
    fn until(&self) -> Option<Instant>;
}

/// Calls end after this, without an answer. A stream's body has an idle bound of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// As long as a call may take.
    pub most: Duration,
    /// What a backend must have had before no answer counts against it.
    pub slow: Duration,
}

impl Deadline {
    /// How a call ends that had no answer within `given`. What was asked for may have been done.
    fn missed(&self, given: Duration) -> Denied {
        if given < self.slow { Denied::GivenUp(given) } else { Denied::TooLate(given) }
    }
}

impl<S, R> Around<S, R> for Deadline
where
    S: Service<R> + Send + 'static,
    S::Error: CallFailure,
    S::Future: Send,
    R: Bounded + Send + 'static,
{
    type Response = S::Response;

    async fn call(self: Arc<Self>, mut inner: S, request: R) -> Result<S::Response, S::Error> {
        let left = request.until().map(|until| until.saturating_duration_since(Instant::now()));
        let given = left.map_or(self.most, |left| left.min(self.most));
        match tokio::time::timeout(given, inner.call(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.missed(given).into()),
        }
    }
}
