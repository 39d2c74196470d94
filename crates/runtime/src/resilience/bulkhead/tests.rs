use bytes::Bytes;
use http::Response;
use http_body::Body as _;

use super::*;

fn bulkhead(places: usize, waiting: usize, wait: u64) -> Arc<Bulkhead> {
    Arc::new(Bulkhead::new(Settings { places, waiting, wait: Duration::from_secs(wait) }))
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_let_in_in_turn() {
    let bulkhead = bulkhead(1, 3, 10);
    let first = bulkhead.enter(None).await.unwrap();
    let (mut second, mut third) = (Box::pin(bulkhead.line_up()), Box::pin(bulkhead.line_up()));
    assert!(futures_poll(second.as_mut()).is_none() && futures_poll(third.as_mut()).is_none());
    drop(first);
    assert!(futures_poll(third.as_mut()).is_none(), "the second was first");
    assert!(bulkhead.take().is_none(), "nobody passes those who wait");
    let second = futures_poll(second.as_mut()).unwrap().unwrap();
    drop(second);
    drop(futures_poll(third.as_mut()).unwrap().unwrap());
    assert_eq!(bulkhead.counts(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_wait_and_the_line_are_bounded() {
    let bulkhead = bulkhead(1, 1, 10);
    let place = bulkhead.enter(None).await.unwrap();
    let waiting = crate::Tasks::new().spawn("waiting", {
        let bulkhead = Arc::clone(&bulkhead);
        async move { bulkhead.enter(None).await.map(drop) }
    });
    tokio::task::yield_now().await;
    assert_eq!(bulkhead.counts(), (0, 1));
    assert_eq!(bulkhead.enter(None).await.unwrap_err(), Denied::Overloaded);
    assert_eq!(waiting.await.unwrap(), Err(Denied::Full { places: 1 }));
    assert_eq!(bulkhead.counts(), (0, 0));
    drop(place);
    assert_eq!(bulkhead.counts(), (1, 0));
}

#[tokio::test]
async fn without_a_wait_it_refuses_at_once() {
    let bulkhead = bulkhead(1, 5, 0);
    let _place = bulkhead.enter(None).await.unwrap();
    assert_eq!(bulkhead.enter(None).await.unwrap_err(), Denied::Full { places: 1 });
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_with_a_place_it_does_not_know_of_gives_it_to_the_next() {
    let bulkhead = bulkhead(1, 3, 10);
    let first = bulkhead.enter(None).await.unwrap();
    let (mut second, mut third) = (Box::pin(bulkhead.line_up()), Box::pin(bulkhead.line_up()));
    assert!(futures_poll(second.as_mut()).is_none() && futures_poll(third.as_mut()).is_none());
    drop(first);
    drop(second);
    drop(futures_poll(third.as_mut()).unwrap().unwrap());
    assert_eq!(bulkhead.counts(), (1, 0));
}

#[tokio::test]
async fn a_stream_keeps_its_place_until_it_is_closed() {
    let bulkhead = bulkhead(2, 0, 0);
    let answer = |text: &'static str| Response::new(http_body_util::Full::new(Bytes::from_static(text.as_bytes())));
    let mut read = AtEnd.hold(answer("all of it"), bulkhead.enter(None).await.unwrap()).into_body();
    let dropped = AtEnd.hold(answer("never read"), bulkhead.enter(None).await.unwrap());
    assert_eq!(bulkhead.counts(), (0, 0));
    let mut frames = 0;
    while std::future::poll_fn(|context| Pin::new(&mut read).poll_frame(context)).await.is_some() {
        frames += 1;
        assert_eq!(bulkhead.counts(), (0, 0));
    }
    assert_eq!((frames, bulkhead.counts()), (1, (1, 0)));
    drop(dropped);
    assert_eq!(bulkhead.counts(), (2, 0));
}

/// Polls once.
fn futures_poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
