//! A replica's memory: the hub, brought forward by the log, and whether the database was heard of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::Tasks;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::session::{Lost, Session};
use super::{Checks, Fate, Word};
use crate::error::StoreError;
use crate::hub::Hub;
use crate::leases::Leadership;
use crate::object::Revision;
use crate::watch::{Replay, ReplayPage, Scope, WatchEnd};

/// How often the log is looked at without a hint.
const LOOK: Duration = Duration::from_secs(1);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long memory is read from without having been compared with the log.
const STALE: Duration = Duration::from_secs(10);

const WELL: u8 = 0;
const AWAY: u8 = 1;
const SILENT: u8 = 2;
const CLOSED: u8 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) name: Arc<str>,
    /// This process's term under its name.
    pub(super) term: u64,
    pub(super) checks: Checks,
    pub(super) session: Session,
    pub(super) hub: Arc<Hub>,
    pub(super) leadership: Arc<Leadership>,
    pub(super) tasks: Tasks,
    pub(super) queue: watch::Sender<u64>,
    pub(super) ring: watch::Sender<u64>,
    health: AtomicU8,
    /// The newest turn of the queue that was heard of.
    turns: AtomicU64,
    /// Held by whoever brings memory forward: one at a time.
    publishing: tokio::sync::Mutex<()>,
}

impl Replica {
    pub(super) fn new(name: Arc<str>, session: Session, ring_changes: usize, watcher_bytes: usize) -> Self {
        let bounds = crate::hub::Bounds { ring_changes, ring_bytes: usize::MAX, watcher_bytes };
        let entering = Arc::clone(&name);
        let (term, objects, floor, checks) = session
            .database
            .with(move |state| (state.enter(&entering), state.log.load(), state.log.floor, state.checks));
        Self {
            name,
            term,
            checks,
            session,
            hub: Arc::new(Hub::new(bounds, objects, floor)),
            leadership: Arc::default(),
            tasks: Tasks::new(),
            queue: watch::Sender::new(0),
            ring: watch::Sender::new(0),
            health: AtomicU8::new(WELL),
            turns: AtomicU64::new(0),
            publishing: tokio::sync::Mutex::default(),
        }
    }

    /// For reads.
    pub(super) fn open(&self) -> Result<(), StoreError> {
        match self.health.load(Ordering::Acquire) {
            SILENT => Err(Lost::Away.into()),
            CLOSED => Err(StoreError::Closed),
            _ => Ok(()),
        }
    }

    pub(super) fn writable(&self) -> Result<(), StoreError> {
        match self.health.load(Ordering::Acquire) {
            AWAY => Err(Lost::Away.into()),
            _ => self.open(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.health.load(Ordering::Acquire) == CLOSED
    }

    /// For good.
    pub(super) fn close(&self) {
        self.health.store(CLOSED, Ordering::Release);
        self.hub.close();
    }

    fn is(&self, to: u8) {
        let changed = |now| (now != CLOSED).then_some(to);
        self.health.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed).ok();
    }

    pub(super) fn lost(&self, lost: Lost) {
        if lost == Lost::Away {
            self.is(AWAY);
        }
    }

    /// Something that is only read.
    pub(super) async fn read<T: Send>(
        &self,
        work: impl FnOnce(&mut super::database::State) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.open()?;
        Ok(self.session.word(Word::Read, work).await?)
    }

    /// Brings memory to a revision at least, or to the newest.
    pub(super) async fn catch_up(&self, upto: Option<Revision>) -> Result<(), StoreError> {
        let _held = self.publishing.lock().await;
        let at = self.hub.published();
        let there = move |state: &mut super::database::State| {
            let known = (state.log.floor, state.ring.generation, state.turns);
            // What the log says, or all there is when it does not lead on from there.
            let loaded = (state.log.floor > at).then(|| state.log.load());
            (known, loaded, state.log.after(at).to_vec(), state.backlog.is_claimable())
        };
        let ((floor, generation, turns), loaded, changes, claimable) = self.session.word(Word::Read, there).await?;
        self.ring.send_if_modified(|known| std::mem::replace(known, generation) != generation);
        match loaded {
            Some(objects) => self.hub.restart(objects, floor),
            None if self.checks.order => {
                self.hub.raise_floor(floor);
                self.hub.publish(&changes);
            }
            // As if the last of several were enough.
            None => self.hub.publish(changes.last().map(std::slice::from_ref).unwrap_or_default()),
        }
        if self.turns.swap(turns, Ordering::AcqRel) != turns || (upto.is_none() && claimable) {
            self.queue.send_modify(|changes| *changes += 1);
        }
        Ok(())
    }

    /// Follows the log until it is told to stop.
    pub(super) async fn follow(self: Arc<Self>) {
        let stopping = self.tasks.stopping();
        let mut told = self.session.database.told();
        let mut heard = Instant::now();
        while !stopping.is_cancelled() && !self.is_closed() {
            match timeout(PATIENCE, self.catch_up(None)).await {
                Ok(Ok(())) => {
                    heard = Instant::now();
                    self.is(WELL);
                }
                _ => self.is(AWAY),
            }
            if heard.elapsed() > STALE {
                self.is(SILENT);
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                () = self.hint(&mut told) => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Waits for a hint that comes through.
    async fn hint(&self, told: &mut watch::Receiver<u64>) {
        while told.changed().await.is_ok() {
            if let Fate::Answered { there, .. } = self.session.wire.fate(Word::Hint) {
                sleep(there).await;
                told.mark_unchanged();
                self.leadership.nudge();
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

/// Reads changes that have left the ring.
#[derive(Debug)]
pub(super) struct History(pub(super) Arc<Replica>);

impl Replay for History {
    fn page(&self, scope: Scope, after: Revision, upto: Revision) -> BoxFuture<'static, Result<ReplayPage, WatchEnd>> {
        let replica = Arc::clone(&self.0);
        async move {
            let page = replica.read(move |state| state.log.page(&scope, after, upto)).await;
            page.unwrap_or(Err(WatchEnd::Closed))
        }
        .boxed()
    }
}
