//! Watchers, which resume at the next server when a stream ends.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::TryStreamExt as _;
use http::Request;
use kube::core::{DynamicObject, WatchEvent};
use mainstay_runtime::Tasks;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::calls::{Api, CONFIG_MAPS};
use crate::stage::{GLANCE, PATIENCE};

/// A stream that does not begin by then is asked for elsewhere.
const BEGINS: Duration = Duration::from_secs(2);
/// Before a stream is asked for again.
const PAUSE: Duration = Duration::from_millis(20);

/// What a watcher has seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// After this revision it began.
    pub(crate) from: u64,
    /// Up to here nothing is missing.
    pub(crate) upto: u64,
    /// Revision, event and name, in the order in which they came.
    pub(crate) events: Vec<(u64, String, String)>,
    /// It was told that its revision is too old, and read a list: what is between, it did not see.
    pub(crate) gaps: Vec<(u64, u64)>,
    /// How often it resumed.
    pub(crate) resumed: usize,
    /// When its stream began last.
    pub(crate) began: Option<Instant>,
}

/// One watcher of all `ConfigMap`s.
pub(crate) struct Follower {
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Follower {
    /// Watches after a revision, at the first of these servers, and at the next one whenever a stream ends.
    pub(crate) fn follow(tasks: &Tasks, apis: Vec<Api>, from: u64) -> Self {
        let seen = Arc::new(Mutex::new(Seen { from, upto: from, ..Seen::default() }));
        let stop = CancellationToken::new();
        let (own, stopped) = (Arc::clone(&seen), stop.clone());
        let task = tasks.spawn("watcher", async move {
            let following = async {
                for turn in 0_usize.. {
                    stream(&apis[turn % apis.len()], &own).await?;
                    sleep(PAUSE).await;
                }
                Ok(())
            };
            stopped.run_until_cancelled(following).await.unwrap_or(Ok(()))
        });
        Self { seen, stop, task }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn upto(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).upto
    }

    /// When the stream that is open began.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).began
    }

    /// Waits until it has seen everything up to this revision, and gives what it saw.
    pub(crate) async fn ends(self, revision: u64) -> anyhow::Result<Seen> {
        let begun = Instant::now();
        while self.upto() < revision {
            ensure!(begun.elapsed() < PATIENCE, "a watcher stays behind {revision}: {:?}", Told(&self.seen()));
            ensure!(!self.task.is_finished(), "a watcher has ended");
            sleep(GLANCE).await;
        }
        self.stop.cancel();
        self.task.await.context("a watcher failed")??;
        Ok(std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// One that can be read: without all of its events.
struct Told<'a>(&'a Seen);

impl std::fmt::Debug for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Seen { from, upto, events, gaps, resumed, .. } = self.0;
        write!(f, "from {from} up to {upto}, {} events, gaps {gaps:?}, resumed {resumed} times", events.len())
    }
}

/// One stream, to its end. Fails when the server says what no server may say.
async fn stream(api: &Api, seen: &Mutex<Seen>) -> anyhow::Result<()> {
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let upto = lock().upto;
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={upto}&allowWatchBookmarks=true");
    let asked = api.0.request_events::<DynamicObject>(Request::get(path).body(Vec::new())?);
    let events = match timeout(BEGINS, asked).await {
        Ok(Ok(events)) => events,
        Ok(Err(kube::Error::Api(status))) if status.code == 410 => return list(api, seen).await,
        // It is not there, or not well.
        Ok(Err(_)) | Err(_) => return Ok(()),
    };
    {
        let mut seen = lock();
        seen.resumed += usize::from(seen.began.is_some());
        seen.began = Some(Instant::now());
    }
    let mut events = pin!(events);
    while let Ok(Some(event)) = events.try_next().await {
        let (kind, object) = match event {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            WatchEvent::Bookmark(bookmark) => {
                let revision = bookmark.metadata.resource_version.parse()?;
                let mut seen = lock();
                ensure!(revision >= seen.upto, "a bookmark went back from {} to {revision}", seen.upto);
                seen.upto = revision;
                continue;
            }
            WatchEvent::Error(status) if status.code == 410 => return list(api, seen).await,
            WatchEvent::Error(status) if status.code >= 500 => return Ok(()),
            WatchEvent::Error(status) => bail!("a watch was told {status:?}"),
        };
        let revision = object.metadata.resource_version.context("an object without revision")?.parse()?;
        let mut seen = lock();
        seen.events.push((revision, kind.to_owned(), object.metadata.name.unwrap_or_default()));
        seen.upto = revision;
    }
    Ok(())
}

/// Begins anew, as a client does that was told that its revision is too old.
async fn list(api: &Api, seen: &Mutex<Seen>) -> anyhow::Result<()> {
    let answer = api.get(&format!("{CONFIG_MAPS}?limit=1")).await;
    if let Some(revision) = answer.revision().filter(|_| answer.code == Some(200)) {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let upto = seen.upto;
        seen.gaps.push((upto, revision));
        seen.upto = revision;
    }
    Ok(())
}
