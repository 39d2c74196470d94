//! Whether a peer takes what it is given, stream by stream of HTTP/2.
//!
//! A peer that grants no window, but answers all else, keeps a connection in good health and its stream where it is. So
//! each stream runs under a watch of its own: when the peer has taken nothing of what waits for it for too long, the
//! stream is dropped, which resets it. (A connection of HTTP/1.1 that stalls is the kernel's to end, as is one of HTTP/2
//! that stalls as a whole.)

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use mainstay_runtime::guard::Guard;
use tokio::time::{Sleep, sleep};

use super::activity::Exchange;
use crate::body::{Body, BodyError};

/// A stream of HTTP/2 gets pieces of at most this size: no more than one of them waits for window in memory.
const PIECE: usize = 16 << 10;

tokio::task_local! {
    /// The stream whose request runs on this task.
    static STREAM: Arc<Pace>;
}

/// How often a body was asked for more, doubled; odd while what it gave has not been taken.
#[derive(Debug, Default)]
struct Pace(AtomicU64);

impl Pace {
    fn asked(&self) {
        self.0.fetch_add(2, Ordering::Relaxed);
        self.0.fetch_and(!1, Ordering::Relaxed);
    }

    fn gave(&self) {
        self.0.fetch_or(1, Ordering::Relaxed);
    }

    /// A number for what the peer has yet to take, if there is such a thing.
    fn waiting(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|pace| pace & 1 == 1)
    }
}

/// Runs streams of HTTP/2, none of which its peer may hold up for longer than `stall`.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    pub(super) stall: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let pace = Arc::new(Pace::default());
        TokioExecutor::new().execute(STREAM.scope(pace.clone(), bounded(stream, pace, self.stall)));
    }
}

async fn bounded(stream: impl Future<Output = ()>, pace: Arc<Pace>, stall: Duration) {
    let mut stream = pin!(stream);
    let mut timer: Option<(u64, Pin<Box<Sleep>>)> = None;
    poll_fn(|context| {
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let waiting = pace.waiting();
        if timer.as_ref().map(|(since, _)| *since) != waiting {
            timer = waiting.map(|since| (since, Box::pin(sleep(stall))));
        }
        let Some((_, timer)) = timer.as_mut().filter(|_| Guard::Stall.holds()) else { return Poll::Pending };
        timer.as_mut().poll(context).map(|()| tracing::debug!("a peer does not read its stream, which is reset"))
    })
    .await;
}

/// The body of a response on its way to a peer.
#[derive(Debug)]
pub(super) struct Paced {
    body: Body,
    /// What is left of a piece of the body.
    rest: Bytes,
    /// The stream, in HTTP/2.
    pace: Option<Arc<Pace>>,
    _exchange: Exchange,
}

impl Paced {
    /// Made on the task of the request.
    pub(super) fn new(body: Body, exchange: Exchange) -> Self {
        let pace = STREAM.try_with(Arc::clone).ok();
        Self { body, rest: Bytes::new(), pace, _exchange: exchange }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(pace) = self.pace.clone() else { return Pin::new(&mut self.body).poll_frame(context) };
        pace.asked();
        let mut data = std::mem::take(&mut self.rest);
        if data.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(more) => data = more,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        if data.len() > PIECE {
            self.rest = data.split_off(PIECE);
        }
        pace.gave();
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // It is asked for before the first piece.
        self.body.size_hint()
    }
}
