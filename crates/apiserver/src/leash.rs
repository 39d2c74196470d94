//! A stream that ends when something else says so, whether or not anybody polls it.
//!
//! A response is polled only while its peer takes what it is given. So what ends it at a time, or with a right, cannot
//! be left to the stream itself: for a peer that does not read, it would never come, and all that the stream holds
//! would be held for as long as the peer likes.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::Stream;
use mainstay_runtime::Tasks;
use tokio_util::sync::{CancellationToken, DropGuard};

/// See the module.
pub(crate) struct Leashed<S> {
    held: Arc<Held<S>>,
    _gone: DropGuard,
}

struct Held<S>(Mutex<Slot<S>>);

struct Slot<S> {
    /// `None` once it is over.
    stream: Option<Pin<Box<S>>>,
    waker: Option<Waker>,
}

impl<S> Held<S> {
    fn slot(&self) -> MutexGuard<'_, Slot<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let (stream, waker) = {
            let mut slot = self.slot();
            (slot.stream.take(), slot.waker.take())
        };
        drop(stream);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The stream until `over` is ready; all that it holds is dropped then.
pub(crate) fn leashed<S>(tasks: &Tasks, stream: S, over: impl Future<Output = ()> + Send + 'static) -> Leashed<S>
where
    S: Send + 'static,
{
    let held = Arc::new(Held(Mutex::new(Slot { stream: Some(Box::pin(stream)), waker: None })));
    let gone = CancellationToken::new();
    let (keeper, left) = (held.clone(), gone.clone());
    drop(tasks.spawn("leash", async move {
        if left.run_until_cancelled(over).await.is_some() {
            keeper.end();
        }
    }));
    Leashed { held, _gone: gone.drop_guard() }
}

impl<S: Stream> Stream for Leashed<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut slot = self.held.slot();
        let Some(stream) = &mut slot.stream else { return Poll::Ready(None) };
        let polled = stream.as_mut().poll_next(context);
        match &polled {
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => slot.stream = None,
            Poll::Pending => slot.waker = Some(context.waker().clone()),
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{FutureExt, StreamExt, stream};
    use tokio::sync::oneshot;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A stream of 1, then of nothing, that holds `held`.
    fn holding(held: Arc<()>) -> impl Stream<Item = u8> {
        let left = vec![1];
        stream::unfold((left, held), |(mut left, held)| async move {
            match left.pop() {
                Some(item) => Some((item, (left, held))),
                None => std::future::pending().await,
            }
        })
    }

    #[tokio::test]
    async fn it_ends_for_who_waits_and_lets_go_for_who_does_not() {
        let tasks = Tasks::new();
        let (over, when) = oneshot::channel::<()>();
        let held = Arc::new(());
        let mut stream = leashed(&tasks, holding(held.clone()), when.map(drop));
        assert_eq!(stream.next().await, Some(1));
        let waiting = tasks.spawn("reader", async move { stream.next().await });
        let (end, unread) = (CancellationToken::new(), Arc::new(()));
        let until = end.clone();
        let mut other = leashed(&tasks, holding(unread.clone()), async move { until.cancelled().await });
        end.cancel();
        let let_go = async {
            while Arc::strong_count(&unread) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, let_go).await.expect("it was never polled, and has let go");
        assert_eq!(other.next().await, None);
        assert_eq!(Arc::strong_count(&held), 2);
        over.send(()).unwrap();
        assert_eq!(tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap(), None);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn who_holds_the_leash_goes_with_the_stream() {
        let tasks = Tasks::new();
        drop(leashed(&tasks, holding(Arc::new(())), std::future::pending()));
        tasks.shutdown(PATIENCE).await.unwrap();
    }
}
