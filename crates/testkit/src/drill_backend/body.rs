//! Answers' bodies: whole, and such as never end.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame};

/// Any of them.
pub(super) type Answer = BoxBody<Bytes, Infallible>;

/// All of it at once.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Answer {
    Full::new(bytes.into()).boxed()
}

/// A little, and then nothing for ever.
pub(super) fn stalled() -> Answer {
    Unfinished { frames: 1 }.boxed()
}

/// Much more than anybody should read.
pub(super) fn endless() -> Answer {
    Unfinished { frames: u32::MAX }.boxed()
}

struct Unfinished {
    frames: u32,
}

impl Body for Unfinished {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.frames.checked_sub(1) {
            Some(left) => {
                self.frames = left;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'['; 4096])))))
            }
            // Nobody wakes it: it ends with its connection.
            None => Poll::Pending,
        }
    }
}
