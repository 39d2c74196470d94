//! Clients that watch: wherever they are, they resume from the last revision that they have seen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainstay_store::conformance::validator::Recording;
use mainstay_store::operation::OPERATIONS;
use mainstay_store::{ListQuery, Revision, Scope, Store, StoreError, Watch};
use tokio::time::{sleep, timeout};

use crate::history::{MARKS, NOTES};
use crate::host::Shared;

/// Between two looks where it is to be.
const LOOK: Duration = Duration::from_millis(200);

/// A client that watches, and where it is.
#[derive(Debug)]
pub(crate) struct Watcher(Mutex<Place>);

#[derive(Debug)]
struct Place {
    /// The replica that it is connected to.
    host: usize,
    /// How often it has gone elsewhere: a connection that it has left says nothing to it any more.
    moves: u64,
    recording: Recording,
    /// What was seen before history was compacted under it.
    before: Vec<Recording>,
}

/// One for each sort of object.
pub(crate) fn all() -> Vec<Watcher> {
    let watcher = |scope: &str| {
        let recording = Recording::new(Scope::resource(scope), Revision(0));
        Watcher(Mutex::new(Place { host: 0, moves: 0, recording, before: Vec::new() }))
    };
    [NOTES, MARKS, OPERATIONS].into_iter().map(watcher).collect()
}

impl Watcher {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn recordings(&self) -> Vec<Recording> {
        let place = self.place();
        place.before.iter().chain([&place.recording]).cloned().collect()
    }

    /// Up to where it has seen everything.
    pub(crate) fn position(&self) -> Revision {
        self.place().recording.position()
    }

    /// It leaves the replica where it is for another, or for the same.
    pub(crate) fn go(&self, host: usize) {
        let mut place = self.place();
        (place.host, place.moves) = (host, place.moves + 1);
    }

    /// Its connection and where it is to resume, if it is here.
    fn here(&self, host: usize) -> Option<(u64, Scope, Revision)> {
        let place = self.place();
        (place.host == host).then(|| (place.moves, place.recording.scope.clone(), place.recording.position()))
    }
}

/// Watches on this replica whenever the client is here.
pub(crate) async fn run(shared: Arc<Shared>, store: Arc<dyn Store>, (host, number): (usize, usize)) {
    let watcher = &shared.watchers[number];
    loop {
        if let Some((connection, scope, after)) = watcher.here(host) {
            match store.watch(scope.clone(), after).await {
                Ok(watch) => follow(watcher, connection, watch).await,
                Err(StoreError::Expired { floor, .. }) if after < floor => {
                    anew(watcher, connection, &*store, scope).await;
                }
                // This replica has not come so far.
                Err(_) => {}
            }
        }
        sleep(LOOK).await;
    }
}

async fn follow(watcher: &Watcher, connection: u64, mut watch: Watch) {
    loop {
        let next = timeout(LOOK, watch.next()).await;
        let mut place = watcher.place();
        if place.moves != connection {
            return;
        }
        match next {
            Ok(Ok(changes)) => place.recording.changes(&changes),
            Ok(Err(_)) => return,
            Err(_) => place.recording.progress(watch.progress()),
        }
    }
}

/// History does not reach back: what there is, and what follows.
async fn anew(watcher: &Watcher, connection: u64, store: &dyn Store, scope: Scope) {
    let query = ListQuery { scope: scope.clone(), limit: None, at: None, after: None };
    let Ok(list) = store.list(query).await else { return };
    let mut place = watcher.place();
    if place.moves == connection && list.revision >= place.recording.position() {
        let before = std::mem::replace(&mut place.recording, Recording::new(scope, list.revision));
        place.before.push(before);
    }
}
