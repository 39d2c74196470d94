//! A replica as a [`Store`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::lease::Leases;
use tokio::sync::{mpsc, oneshot, watch};

use super::database::{Database, State};
use super::replica::{History, Replica};
use super::session::Session;
use super::writer::{self, Ask, Done, Job};
use super::{Options, Wire, Word, leases};
use crate::error::StoreError;
use crate::given::Given;
use crate::keyring::{Keyring, MAX_WRAPPED, Ring, RingChange};
use crate::message::{Append, Appended, MAX_MESSAGE, Page, RunRow};
use crate::object::{Key, MAX_OBJECT, Object, Revision, Write};
use crate::operation::{
    Attempt, Claim, Claims, DeadLetter, OPERATIONS, Queue, QueueFigures, Renewal, Settlement, Standing,
    State as Stands, StepRow, on_disk,
};
use crate::watch::{Scope, Watch};
use crate::{ListPage, ListQuery, Stats, Store, at_most, lock, refuse};

/// Jobs that may wait.
const WAITING: usize = 4_096;
/// How long the end waits for what is under way.
const LAST: Duration = Duration::from_secs(10);

/// See [`super`].
#[derive(Debug)]
pub struct MemoryStore {
    replica: Arc<Replica>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
}

impl MemoryStore {
    /// A replica that enters the database. Needs a Tokio runtime, where its tasks run until it is closed or dropped.
    pub fn open(database: Database, wire: Arc<dyn Wire>, options: Options) -> Arc<Self> {
        let session = Session { database, wire };
        let replica = Replica::new(options.replica.into(), session, options.ring_changes, options.watcher_bytes);
        let replica = Arc::new(replica);
        let (jobs, asked) = mpsc::channel(WAITING);
        let (table, stopping) = (leases::Stored::new(Arc::clone(&replica)), replica.tasks.stopping());
        let leads = crate::leases::run(table, Arc::clone(&replica.leadership), stopping);
        drop(replica.tasks.spawn("store writer", writer::run(Arc::clone(&replica), asked)));
        drop(replica.tasks.spawn("store leases", leads));
        drop(replica.tasks.spawn("store feed", Arc::clone(&replica).follow()));
        Arc::new(Self { replica, jobs: Mutex::new(Some(jobs)) })
    }

    fn submit(&self, ask: Ask, size: usize) -> BoxFuture<'static, Result<Done, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let pushed = at_most(size, MAX_OBJECT).and_then(|()| self.replica.writable()).and_then(|()| {
            let jobs = lock(&self.jobs);
            let jobs = jobs.as_ref().ok_or(StoreError::Closed)?;
            jobs.try_send(Job { ask, reply }).map_err(|_| StoreError::Busy)
        });
        match pushed {
            Ok(()) => async move { answer.await.unwrap_or(Err(StoreError::Closed)) }.boxed(),
            Err(error) => refuse(error),
        }
    }

    fn written(&self, ask: Ask, size: usize) -> BoxFuture<'static, Result<Arc<Object>, StoreError>> {
        let done = self.submit(ask, size);
        async move {
            match done.await? {
                Done::Object(object) => Ok(object),
                Done::Claims(_) | Done::Rows => Err(StoreError::Missing),
            }
        }
        .boxed()
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let replica = Arc::clone(&self.replica);
        async move { replica.read(work).await }.boxed()
    }

    /// A change that is outside the log.
    fn say<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let replica = Arc::clone(&self.replica);
        async move {
            replica.writable()?;
            Ok(replica.session.word(Word::Talk, work).await?)
        }
        .boxed()
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.replica.tasks.stop();
        self.replica.close();
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &Key) -> BoxFuture<'_, Result<Option<Arc<Object>>, StoreError>> {
        if !on_disk(&key.resource) {
            return std::future::ready(self.replica.open().map(|()| self.replica.hub.get(key))).boxed();
        }
        let (key, at) = (key.clone(), self.revision());
        self.read(move |state| state.log.at(&key, at))
    }

    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        match self.replica.open().and_then(|()| self.replica.hub.list(&query)) {
            Ok(Some(page)) => std::future::ready(Ok(page)).boxed(),
            Ok(None) => {
                let at = query.at.unwrap_or(self.revision());
                let page = self.read(move |state| state.log.list(&query, at));
                async move { page.await? }.boxed()
            }
            Err(error) => refuse(error),
        }
    }

    fn write_given(&self, given: Given, write: Write) -> BoxFuture<'_, Result<Arc<Object>, StoreError>> {
        let size = write.draft().len();
        self.written(Ask::Write { given, write }, size)
    }

    fn leases(&self) -> Arc<dyn Leases> {
        Arc::clone(&self.replica.leadership) as _
    }

    fn watch(&self, scope: Scope, after: Revision) -> BoxFuture<'_, Result<Watch, StoreError>> {
        let history = Arc::new(History(Arc::clone(&self.replica)));
        let watch = self.replica.open().and_then(|()| self.replica.hub.watch(history, scope, after));
        std::future::ready(watch).boxed()
    }

    fn revision(&self) -> Revision {
        self.replica.hub.published()
    }

    fn floor(&self) -> Revision {
        self.replica.hub.floor()
    }

    fn compact(&self, floor: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        let replica = Arc::clone(&self.replica);
        let raised = self.say(move |state| state.log.floor = state.log.floor.max(floor.min(state.log.newest())));
        async move {
            raised.await?;
            replica.hub.raise_floor(floor);
            Ok(())
        }
        .boxed()
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Vec<Appended>, StoreError>> {
        let largest = append.messages.iter().map(|message| message.body.len()).max().unwrap_or(0);
        match at_most(largest, MAX_MESSAGE) {
            Ok(()) => self.say(move |state| state.talk.append(&append)),
            Err(error) => refuse(error),
        }
    }

    fn messages(&self, session: &str, after: u64, limit: usize) -> BoxFuture<'_, Result<Page, StoreError>> {
        let session = session.to_owned();
        self.read(move |state| state.talk.page(&session, after, limit))
    }

    fn message_counter(&self, session: &str) -> BoxFuture<'_, Result<watch::Receiver<u64>, StoreError>> {
        let session = Arc::from(session);
        self.read(move |state| state.talk.follow(&session))
    }

    fn drop_session(&self, session: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let session = Arc::from(session);
        self.say(move |state| state.talk.forget(&session))
    }

    fn sessions(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, StoreError>> {
        self.read(|state| state.talk.names())
    }

    fn run_row(&self, session: &str) -> BoxFuture<'_, Result<Option<RunRow>, StoreError>> {
        let session = session.to_owned();
        self.read(move |state| state.talk.rows.get(&*session).cloned())
    }

    fn put_run_row(&self, session: &str, row: RunRow, _: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        let session = Arc::from(session);
        self.say(move |state| drop(state.talk.rows.insert(session, row)))
    }

    fn raise(&self, counter: &str) -> BoxFuture<'_, Result<u64, StoreError>> {
        let counter = counter.to_owned();
        self.say(move |state| state.raise(&counter))
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.replica.writable()
    }

    fn stats(&self) -> Stats {
        let (watchers, slow_watchers_ended) = self.replica.hub.counts();
        Stats { objects: self.replica.hub.objects().count(), watchers, slow_watchers_ended, ..Stats::default() }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // What was accepted is finished: nobody can ask any more.
        lock(&self.jobs).take();
        let replica = Arc::clone(&self.replica);
        async move {
            if let Err(unfinished) = replica.tasks.shutdown(LAST).await {
                tracing::warn!(%unfinished, "the store is closed before everything has ended");
            }
            replica.close();
        }
        .boxed()
    }
}

impl Queue for MemoryStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claims, StoreError>> {
        let done = self.submit(Ask::Claim(claim), 0);
        async move {
            match done.await? {
                Done::Claims(claims) => Ok(claims),
                Done::Object(_) | Done::Rows => Ok(Claims::default()),
            }
        }
        .boxed()
    }

    fn renew(&self, attempts: Vec<Attempt>, lease: Duration) -> BoxFuture<'_, Result<Vec<Renewal>, StoreError>> {
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX / 4);
        let replica = Arc::clone(&self.replica);
        async move {
            replica.open()?;
            let there = move |state: &mut State| {
                attempts.iter().map(|attempt| state.backlog.renew(attempt, lease_ms)).collect()
            };
            Ok(replica.session.word(Word::Renew, there).await?)
        }
        .boxed()
    }

    fn journal(&self, attempt: &Attempt, entry: StepRow) -> BoxFuture<'_, Result<(), StoreError>> {
        let size = entry.output.len();
        let done = self.submit(Ask::Journal { attempt: attempt.clone(), entry }, size);
        async move { done.await.map(drop) }.boxed()
    }

    fn settle(
        &self,
        attempt: &Attempt,
        settlement: Settlement,
    ) -> BoxFuture<'_, Result<Option<Arc<Object>>, StoreError>> {
        let size = settlement.size();
        let done = self.submit(Ask::Settle { attempt: attempt.clone(), settlement }, size);
        async move {
            match done.await? {
                Done::Object(object) => Ok(Some(object)),
                Done::Claims(_) | Done::Rows => Ok(None),
            }
        }
        .boxed()
    }

    fn operations(&self, ids: Vec<Arc<str>>) -> BoxFuture<'_, Result<Vec<Option<Standing>>, StoreError>> {
        self.read(move |state| {
            let standing = |id: &Arc<str>| Some(state.backlog.operations[state.backlog.find(id)?].standing());
            ids.iter().map(standing).collect()
        })
    }

    fn dead_letters(&self, limit: usize) -> BoxFuture<'_, Result<Vec<DeadLetter>, StoreError>> {
        self.read(move |state| {
            let dead = state.backlog.operations.iter().rev().filter(|one| one.row.state == Stands::Dead);
            let letter = |one: &crate::conformance::backlog::Operation| {
                let key = state.orders.get(&one.uid).cloned().unwrap_or_else(|| Key::new(OPERATIONS, "", ""));
                DeadLetter { key, lane: Arc::clone(&one.queued.lane), handler: Arc::clone(&one.queued.handler) }
            };
            dead.map(letter).take(limit).collect()
        })
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.replica.queue.subscribe()
    }

    fn queue_figures(&self) -> BoxFuture<'_, Result<QueueFigures, StoreError>> {
        self.read(|state| QueueFigures {
            depth: state.backlog.depth(),
            longest_wait: None,
            fenced: state.backlog.fenced,
            lost: state.backlog.lost,
        })
    }
}

impl Keyring for MemoryStore {
    fn ring(&self) -> BoxFuture<'_, Result<Ring, StoreError>> {
        self.read(|state| state.ring.clone())
    }

    fn change_ring(&self, change: RingChange) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        let largest = change.add.iter().map(|row| row.wrapped.len()).max().unwrap_or(0);
        match at_most(largest, MAX_WRAPPED) {
            Ok(()) => self.say(move |state| state.change_ring(change)),
            Err(error) => refuse(error),
        }
    }

    fn ring_changes(&self) -> watch::Receiver<u64> {
        self.replica.ring.subscribe()
    }
}

impl State {
    fn change_ring(&mut self, change: RingChange) -> Option<u64> {
        if self.ring.generation != change.generation {
            return None;
        }
        let named = |row: &crate::KeyRow| (Arc::clone(&row.name), row.version);
        self.ring.rows.retain(|row| !change.remove.contains(&named(row)));
        self.ring.rows.retain(|row| !change.add.iter().any(|added| named(added) == named(row)));
        self.ring.rows.extend(change.add);
        self.ring.rows.sort_unstable_by_key(named);
        self.ring.generation += 1;
        Some(self.ring.generation)
    }
}
