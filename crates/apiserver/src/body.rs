//! Response bodies: stored bytes handed on as they are, lists glued together lazily, and streams.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body::{Frame, SizeHint};

/// What a body can fail with after it has begun.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
type BoxedStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// Small pieces are glued to chunks of about this size, so that neither one write per object nor one huge copy is made.
const CHUNK: usize = 64 << 10;

/// The body of every response.
pub struct Body(Inner);

enum Inner {
    Once(Bytes),
    Pieces { pieces: VecDeque<Bytes>, left: u64 },
    Stream(BoxedStream),
}

impl Body {
    /// No bytes.
    pub const fn empty() -> Self {
        Self(Inner::Once(Bytes::new()))
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Once(bytes.into()))
    }

    /// These pieces, one after the other.
    pub fn pieces(pieces: VecDeque<Bytes>) -> Self {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self(Inner::Pieces { pieces, left })
    }

    /// Whatever the stream yields. One that panics breaks off, and takes nothing else down.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        let guarded = AssertUnwindSafe(stream).catch_unwind().map(|item| {
            item.unwrap_or_else(|_| {
                tracing::error!("the stream of a response panicked");
                Err("the stream panicked; the server goes on".into())
            })
        });
        Self(Inner::Stream(Box::pin(guarded)))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Once(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            Inner::Pieces { left, .. } => write!(f, "Body({left} bytes in pieces)"),
            Inner::Stream(_) => f.write_str("Body(stream)"),
        }
    }
}

fn next_chunk(pieces: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let first = pieces.pop_front()?;
    if first.len() >= CHUNK || pieces.is_empty() {
        return Some(first);
    }
    let mut chunk = BytesMut::with_capacity(CHUNK);
    chunk.extend_from_slice(&first);
    while pieces.front().is_some_and(|next| chunk.len() + next.len() <= CHUNK) {
        chunk.extend_from_slice(&pieces.pop_front()?);
    }
    Some(chunk.freeze())
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Once(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Once(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Inner::Pieces { pieces, left } => {
                let chunk = next_chunk(pieces);
                *left -= chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
            }
            Inner::Stream(stream) => stream.as_mut().poll_next(context).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Once(bytes) => bytes.is_empty(),
            Inner::Pieces { pieces, .. } => pieces.is_empty(),
            Inner::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Once(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Pieces { left, .. } => SizeHint::with_exact(*left),
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}
