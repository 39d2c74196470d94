//! The store over PostgreSQL, which several processes ("replicas") share.
//!
//! All writes of objects and operations of a process go in batches, each of them one statement: a function (`sql/apply.sql`)
//! that locks the log, does every item, and gives their revisions, so that commits are in the order of revisions, without
//! gaps, whoever makes them, and no lock ever waits for a client (`writer`). Memory holds the newest state as in the store
//! over SQLite ([`crate::sqlite`]), brought forward by what the process wrote itself, and by the log (`feed`).
//!
//! Invariants:
//! - An acknowledged write is committed on the server, and visible in this process; in others within [`STALENESS`] at the latest,
//!   typically milliseconds. A process that has not heard of the database for 10 s refuses reads.
//! - A batch is carried out at most once. Where the answer was lost, the database says what came of it before anything else is sent.
//! - A database that is another one (another server, a restore, a failover) begins an epoch: no revision is given twice.
//! - Programs of several versions share a database as long as its schema was not contracted since the oldest ([`Step`]).
//! - Of two processes that enter under one replica's name the later one writes, and the earlier stops.

mod address;
mod awaited;
mod batch;
mod chores;
mod claimed;
mod feed;
mod jobs;
mod keyring;
mod leases;
mod link;
pub(crate) mod load;
mod options;
mod parameter;
mod presence;
mod queue;
mod replay;
mod rows;
mod schema;
mod seen;
mod shared;
mod talk;
#[cfg(test)]
mod tests;
pub mod upgrade;
mod writer;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_runtime::Tasks;
use mainstay_runtime::lease::Leases;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::error::StoreError;
use crate::given::Given;
use crate::hub::{Bounds, Hub};
use crate::message::{Append, Appended, MAX_MESSAGE, Page, RunRow};
use crate::object::{Key, MAX_OBJECT, Object, Revision, Write};
use crate::operation::on_disk;
use crate::watch::{Scope, Watch};
use crate::{ListPage, ListQuery, Stats, Store, at_most, lock, refuse};
pub use address::{Address, AddressError};
use jobs::{Ask, Done, Job, Jobs};
use link::Link;
pub use options::{Options, Time};
pub use schema::Step;
use seen::Seen;
use shared::Shared;
use talk::{Say, Talk};

/// How far behind the others a process may be that hears of the database: it looks at the log once a second by itself.
pub const STALENESS: Duration = Duration::from_secs(2);
/// How long the end waits for what is under way.
const LAST: Duration = Duration::from_secs(10);

/// A [`Store`] in a database that others use, too.
#[derive(Debug)]
pub struct PostgresStore {
    shared: Arc<Shared>,
    jobs: Arc<Jobs>,
    talk: Arc<Talk>,
    /// Everything runs here, so that no caller's clock or load is in its way. `None` once it is dropped.
    runtime: Option<Runtime>,
}

impl PostgresStore {
    /// Enters the database, makes or updates its tables, and loads the current objects. Blocks meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Away`] when it cannot be reached, [`StoreError::NewerSchema`] when this program is too old for its tables, and
    /// [`StoreError::Database`].
    pub fn open(options: Options) -> Result<Arc<Self>, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store-postgres")
            .enable_all()
            .build()
            .map_err(|error| StoreError::Database(Arc::new(error)))?;
        let (jobs, talk) =
            (Jobs::new(options.queue_items, options.queue_bytes), Talk::new(options.queue_items, options.queue_bytes));
        let (jobs, talk) = (Arc::new(jobs), Arc::new(talk));
        let tasks = Tasks::new();
        let (reply, opened) = std::sync::mpsc::channel();
        {
            let _inside = runtime.enter();
            let (tasks, jobs, talk) = (tasks.clone(), Arc::clone(&jobs), Arc::clone(&talk));
            drop(tasks.clone().spawn("store", async move {
                reply.send(start(options, tasks, jobs, talk).await).ok();
            }));
        }
        match opened.recv().unwrap_or(Err(StoreError::Closed)) {
            Ok(shared) => Ok(Arc::new(Self { shared, jobs, talk, runtime: Some(runtime) })),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// The clock of leases, in milliseconds, when it is the callers'.
    fn lease_ms(&self) -> Option<i64> {
        match self.shared.options.time {
            Time::Database => None,
            Time::Driven(since) => i64::try_from(since.elapsed().as_millis()).ok(),
        }
    }

    /// Has something done by the writer, within `size` bytes of what may wait, and gives what came of it.
    fn submit(&self, ask: Ask, size: usize, wall_ms: Option<i64>) -> BoxFuture<'static, Result<Done, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let wall_ms = wall_ms.filter(|_| matches!(self.shared.options.time, Time::Driven(_)));
        let job = Job { ask, size, now_ms: self.lease_ms(), wall_ms, reply };
        if let Err(refused) = self.shared.health.writable().and_then(|()| self.jobs.push(job)) {
            return refuse(refused);
        }
        async move { answer.await.unwrap_or(Err(StoreError::Closed)) }.boxed()
    }

    fn write_if(&self, given: Given, write: Write) -> BoxFuture<'static, Result<Arc<Object>, StoreError>> {
        let size = write.draft().len();
        if let Err(error) = at_most(size, MAX_OBJECT) {
            return refuse(error);
        }
        let done = match serde_json::to_string(&write.draft().meta) {
            Ok(meta) => self.submit(Ask::Write { write, meta, given }, size, None),
            Err(error) => return refuse(StoreError::Database(Arc::new(error))),
        };
        async move {
            match done.await? {
                Done::Object(object) => Ok(object),
                Done::Claims(_) | Done::Rows => Err(StoreError::Missing),
            }
        }
        .boxed()
    }

    fn say<T: Send + 'static>(
        &self,
        say: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Say,
        size: usize,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel();
        if let Err(refused) = self.shared.health.writable().and_then(|()| self.talk.push(say(reply), size)) {
            return refuse(refused);
        }
        async move { answer.await.unwrap_or(Err(StoreError::Closed)) }.boxed()
    }

    /// Something that is done on the store's own threads.
    fn on_store<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let Some(runtime) = &self.runtime else { return refuse(StoreError::Closed) };
        if let Err(error) = self.shared.health.open() {
            return refuse(error);
        }
        let _inside = runtime.enter();
        let working = self.shared.tasks.spawn("store read", work);
        async move { working.await.unwrap_or(Err(StoreError::Closed)) }.boxed()
    }
}

/// Opens everything, and starts the tasks.
async fn start(options: Options, tasks: Tasks, jobs: Arc<Jobs>, talk: Arc<Talk>) -> Result<Arc<Shared>, StoreError> {
    let connections = Tasks::new();
    let link = Link::new(&options.address, format!("mainstay {} enters", options.replica), &connections, None);
    let steps = schema::steps(options.further.as_ref());
    let knows = schema::version_of(&steps);
    schema::prepare(&link, options.span, &steps).await?;
    let seen = Seen::of(&link, options.seen.clone()).await?;
    let entered = schema::enter(&link, (&options.replica, knows), None, seen.revision()).await?;
    let (objects, floor) = rows::load(&link).await?;
    let bounds = Bounds {
        ring_changes: options.ring_changes,
        ring_bytes: options.ring_bytes,
        watcher_bytes: options.watcher_bytes,
    };
    let hub = Arc::new(Hub::new(bounds, objects, floor));
    let shared = Arc::new(Shared::new((options, knows), (tasks, connections), hub, link, (entered.term, seen)));
    shared.run("store writer", write(Arc::clone(&shared), jobs));
    shared.run("store messages", talk::run(Arc::clone(&shared), talk));
    let (table, stopping) = (leases::Stored::new(Arc::clone(&shared)), shared.tasks.stopping());
    shared.run("store presence", presence::keep(Arc::clone(&shared)));
    shared.run("store leases", crate::leases::run(table, Arc::clone(&shared.leadership), stopping));
    shared.run("store feed", feed::follow(Arc::clone(&shared)));
    shared.run("store hints", feed::tell(Arc::clone(&shared)));
    if matches!(shared.options.time, Time::Database) {
        shared.run("store look-out", queue::look_out(Arc::clone(&shared)));
    }
    shared.run("store chores", chores::run(Arc::clone(&shared)));
    Ok(shared)
}

/// Works until the store is closed and nothing waits.
async fn write(shared: Arc<Shared>, jobs: Arc<Jobs>) {
    let mut writer = writer::Writer::new(shared);
    while let Some(batch) = jobs.take().await {
        let sent = Instant::now();
        writer.carry_out(batch).await;
        jobs.committed(sent.elapsed(), writer.in_turns());
    }
}

impl Store for PostgresStore {
    fn get(&self, key: &Key) -> BoxFuture<'_, Result<Option<Arc<Object>>, StoreError>> {
        if !on_disk(&key.resource) {
            return std::future::ready(self.shared.health.open().map(|()| self.shared.hub.get(key))).boxed();
        }
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        self.on_store(async move { rows::current(&shared, &key).await })
    }

    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        let now = self.shared.health.open().and_then(|()| self.shared.hub.list(&query));
        let shared = Arc::clone(&self.shared);
        match now {
            Ok(Some(page)) => std::future::ready(Ok(page)).boxed(),
            Ok(None) => self.on_store(async move {
                match query.at {
                    Some(at) => rows::snapshot(&shared.readers, &query, at).await,
                    None => rows::newest(&shared, &query).await,
                }
            }),
            Err(error) => refuse(error),
        }
    }

    fn write_given(&self, given: Given, write: Write) -> BoxFuture<'_, Result<Arc<Object>, StoreError>> {
        self.write_if(given, write)
    }

    fn leases(&self) -> Arc<dyn Leases> {
        Arc::clone(&self.shared.leadership) as _
    }

    fn watch(&self, scope: Scope, after: Revision) -> BoxFuture<'_, Result<Watch, StoreError>> {
        let Some(runtime) = &self.runtime else { return refuse(StoreError::Closed) };
        let history = Arc::new(replay::History(Arc::clone(&self.shared), runtime.handle().clone()));
        let watch = self.shared.health.open().and_then(|()| self.shared.hub.watch(history, scope, after));
        std::future::ready(watch).boxed()
    }

    fn revision(&self) -> Revision {
        self.shared.hub.published()
    }

    /// Whoever was told of it elsewhere may come here before the hint does.
    fn reach(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        if revision <= self.shared.hub.published() {
            return std::future::ready(Ok(())).boxed();
        }
        self.on_store(Arc::clone(&self.shared).reach(revision))
    }

    fn floor(&self) -> Revision {
        self.shared.hub.floor()
    }

    fn compact(&self, floor: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        let shared = Arc::clone(&self.shared);
        self.on_store(async move {
            chores::raise_floor(&shared, floor).await?;
            chores::free(&shared).await
        })
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Vec<Appended>, StoreError>> {
        let largest = append.messages.iter().map(|message| message.body.len()).max().unwrap_or(0);
        if let Err(error) = at_most(largest, MAX_MESSAGE) {
            return refuse(error);
        }
        let size = append.messages.iter().map(|message| message.body.len() + 64).sum();
        self.say(move |reply| Say::Append(append, reply), size)
    }

    fn messages(&self, session: &str, after: u64, limit: usize) -> BoxFuture<'_, Result<Page, StoreError>> {
        let (shared, session) = (Arc::clone(&self.shared), session.to_owned());
        self.on_store(async move { talk::page(&shared.readers, &session, after, limit).await })
    }

    fn message_counter(&self, session: &str) -> BoxFuture<'_, Result<watch::Receiver<u64>, StoreError>> {
        let (shared, session) = (Arc::clone(&self.shared), session.to_owned());
        self.on_store(async move { talk::counter(&shared, &session).await })
    }

    fn drop_session(&self, session: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let session = Arc::from(session);
        self.say(move |reply| Say::Drop(session, reply), 0)
    }

    fn sessions(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, StoreError>> {
        let shared = Arc::clone(&self.shared);
        self.on_store(async move { talk::sessions(&shared).await })
    }

    /// A row is read as it was put last here, even before that is durable.
    fn run_row(&self, session: &str) -> BoxFuture<'_, Result<Option<RunRow>, StoreError>> {
        let (shared, session) = (Arc::clone(&self.shared), session.to_owned());
        self.on_store(async move { talk::run_row(&shared, &session).await })
    }

    fn put_run_row(&self, session: &str, row: RunRow, durable: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        if let Err(error) = self.shared.health.open() {
            return refuse(error);
        }
        lock(&self.shared.dirty).insert(session.into(), row);
        if durable {
            return self.say(Say::Settled, 0);
        }
        self.talk.nudge();
        std::future::ready(Ok(())).boxed()
    }

    fn raise(&self, counter: &str) -> BoxFuture<'_, Result<u64, StoreError>> {
        let name = counter.to_owned();
        self.say(move |reply| Say::Raise(name, reply), 0)
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.shared.health.writable()
    }

    fn stats(&self) -> Stats {
        let (watchers, slow_watchers_ended) = self.shared.hub.counts();
        Stats {
            objects: self.shared.hub.objects().count(),
            commits: self.shared.counts.commits.load(Ordering::Relaxed),
            writes: self.shared.counts.writes.load(Ordering::Relaxed),
            watchers,
            slow_watchers_ended,
            queued: (self.jobs.len() + self.talk.len()) as u64,
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // First, so that no task that ends is taken for one that failed.
        self.shared.tasks.stop();
        self.jobs.close();
        self.talk.close();
        let shared = Arc::clone(&self.shared);
        let closing = self.runtime.as_ref().map(|runtime| {
            let _inside = runtime.enter();
            let tasks = Tasks::new();
            tasks.spawn("store closing", async move {
                // What is under way is finished first.
                if let Err(unfinished) = shared.tasks.shutdown(LAST).await {
                    tracing::warn!(%unfinished, "the store is closed before everything has ended");
                }
                shared.connections.shutdown(LAST).await.ok();
                tokio::task::block_in_place(|| shared.seen.keep(shared.hub.published()));
                shared.health.close();
                shared.hub.close();
            })
        });
        async move {
            if let Some(closing) = closing {
                closing.await.ok();
            }
        }
        .boxed()
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.shared.tasks.stop();
        self.jobs.close();
        self.talk.close();
        self.shared.health.close();
        self.shared.hub.close();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
