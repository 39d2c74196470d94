//! For how long an answer keeps its place.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};

use super::Place;

/// What becomes of a place when its answer is there.
pub trait Hold<A>: Send + Sync + 'static {
    /// The answer, with or without its place.
    type Held;

    /// Takes the place over.
    fn hold(&self, answer: A, place: Place) -> Self::Held;
}

/// The place is free as soon as the answer is there.
#[derive(Debug, Clone, Copy)]
pub struct AtAnswer;

impl<A> Hold<A> for AtAnswer {
    type Held = A;

    fn hold(&self, answer: A, _place: Place) -> A {
        answer
    }
}

/// The place is free when the body has been read to its end, or dropped.
#[derive(Debug, Clone, Copy)]
pub struct AtEnd;

impl<B> Hold<Response<B>> for AtEnd {
    type Held = Response<Held<B>>;

    fn hold(&self, answer: Response<B>, place: Place) -> Self::Held {
        answer.map(|body| Held { body, place: Some(place) })
    }
}

/// A body with a place.
#[derive(Debug)]
pub struct Held<B> {
    body: B,
    place: Option<Place>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Held<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            drop(self.place.take());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
