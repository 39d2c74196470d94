//! One tower layer for all that can stand around a call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tower::{Layer, Service};

use crate::sync::Arc;

/// Something that stands around calls of a service `S`.
pub trait Around<S: Service<R>, R>: Send + Sync + 'static {
    /// What the caller gets for an answer of `S`.
    type Response;

    /// Makes the call, or does not. `inner` is ready for one call.
    fn call(
        self: Arc<Self>,
        inner: S,
        request: R,
    ) -> impl Future<Output = Result<Self::Response, S::Error>> + Send + 'static;
}

/// Puts a `P` around a service.
#[derive(Debug)]
pub struct Put<P>(pub Arc<P>);

impl<P> Clone for Put<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P, S> Layer<S> for Put<P> {
    type Service = Within<P, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Within { around: Arc::clone(&self.0), inner }
    }
}

/// A service within a `P`.
#[derive(Debug)]
pub struct Within<P, S> {
    around: Arc<P>,
    inner: S,
}

impl<P, S: Clone> Clone for Within<P, S> {
    fn clone(&self) -> Self {
        Self { around: Arc::clone(&self.around), inner: self.inner.clone() }
    }
}

impl<P, S, R> Service<R> for Within<P, S>
where
    P: Around<S, R>,
    S: Service<R> + Clone,
{
    type Response = P::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<P::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // The one that was made ready is the one to call.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        Box::pin(Arc::clone(&self.around).call(ready, request))
    }
}
