//! What the tasks of a store share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstay_runtime::Tasks;
use mainstay_runtime::clock::boottime;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::rows::Readers;
use super::seen::Seen;
use super::{Options, schema};
use crate::error::StoreError;
use crate::hub::Hub;
use crate::leases::Leadership;
use crate::lock;
use crate::message::RunRow;

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    /// The schema's version that this program brings.
    pub(super) knows: u32,
    pub(super) tasks: Tasks,
    /// The connections: what carries everything else's messages ends last.
    pub(super) connections: Tasks,
    pub(super) hub: Arc<Hub>,
    pub(super) health: Health,
    /// What clients ask for that memory does not hold. However long that takes, it holds up none of the following.
    pub(super) readers: Readers,
    /// What brings memory forward.
    pub(super) follower: Readers,
    /// Renewals, and the objects of what was claimed.
    pub(super) work: Readers,
    /// What frees space.
    pub(super) chores: Readers,
    /// What of the database's is kept in this replica's directory.
    pub(super) seen: Seen,
    /// Loads, and enters where nobody writes.
    pub(super) link: Link,
    /// This process's term under its replica's name.
    pub(super) term: AtomicI64,
    /// Held by whoever brings memory forward: one at a time.
    pub(super) publishing: tokio::sync::Mutex<()>,
    /// Something can be claimed, or is to be cancelled, that was not before.
    pub(super) queue: watch::Sender<u64>,
    /// How many operations this process's batches have made ready.
    pub(super) made_ready: watch::Sender<u64>,
    pub(super) counts: Counts,
    pub(super) leadership: Arc<Leadership>,
    /// The generation of the ring of keys, as it was seen last.
    pub(super) ring: watch::Sender<u64>,
    /// What other replicas are to be told of.
    pub(super) outbound: Signal,
    /// What other replicas have told.
    pub(super) inbound: Signal,
    /// Sessions' last numbers, for those who wait for more.
    pub(super) counters: Mutex<HashMap<Arc<str>, watch::Sender<u64>>>,
    /// Run rows that are newer than the database's.
    pub(super) dirty: Mutex<HashMap<Arc<str>, RunRow>>,
}

/// Since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) commits: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) fenced: AtomicU64,
    pub(super) lost: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        (options, knows): (Options, u32),
        (tasks, connections): (Tasks, Tasks),
        hub: Arc<Hub>,
        link: Link,
        (term, seen): (i64, Seen),
    ) -> Self {
        let readers = |what: &str, count: usize| {
            let name = format!("mainstay {} {what}", options.replica);
            Readers::new(&options.address, &name, count, &connections)
        };
        Self {
            hub,
            readers: readers("reads", options.readers),
            follower: readers("follows", 1),
            work: readers("works", 1),
            chores: readers("frees", 1),
            seen,
            link,
            term: AtomicI64::new(term),
            health: Health::default(),
            publishing: tokio::sync::Mutex::default(),
            queue: watch::Sender::new(0),
            made_ready: watch::Sender::new(0),
            counts: Counts::default(),
            leadership: Arc::default(),
            ring: watch::Sender::new(0),
            outbound: Signal::default(),
            inbound: Signal::default(),
            counters: Mutex::default(),
            dirty: Mutex::default(),
            options,
            knows,
            tasks,
            connections,
        }
    }

    /// Runs a task without which the store is of no use: when it ends by itself, even by panic, nothing more is done here.
    pub(super) fn run(self: &Arc<Self>, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let ends = Ends { shared: Arc::clone(self), stopping: self.tasks.stopping() };
        drop(self.tasks.spawn(name, async move {
            let _ends = ends;
            work.await;
        }));
    }

    /// Enters again: the connection is a new one, and may be to another server.
    pub(super) async fn enter(&self, link: &Link) -> Result<(), super::link::Failure> {
        let (replica, seen) = (&self.options.replica, self.hub.published());
        let term = self.term.load(Ordering::Acquire);
        match schema::enter(link, (replica, self.knows), Some(term), seen).await {
            Ok(entered) => {
                self.term.store(entered.term, Ordering::Release);
                if entered.began {
                    tracing::warn!(
                        revision = entered.revision.0,
                        "the database is another one, or an older state: an epoch begins"
                    );
                    self.inbound.raise(REVISION);
                }
                Ok(())
            }
            Err(failure) => {
                self.heed(&failure);
                Err(failure)
            }
        }
    }

    /// Whoever was replaced stops, and so does whoever is too old.
    pub(super) fn heed(&self, failure: &super::link::Failure) {
        if schema::is_replaced(failure) {
            self.end("another process has entered under this replica's name: this one stops");
        } else if schema::is_outdated(failure) {
            self.end("the schema was contracted to what only newer programs know: this one stops");
        }
    }

    /// Nothing more is done here, for this reason.
    pub(super) fn end(&self, why: &'static str) {
        if !self.health.is_closed() {
            tracing::error!(replica = %self.options.replica, "{why}");
            self.health.close();
            self.hub.close();
        }
    }

    /// The queue has changed in a way that those who wait have to know.
    pub(super) fn wake_queue(&self) {
        self.queue.send_modify(|changes| *changes += 1);
    }

    /// The newest run row that was put here and is not in the database yet.
    pub(super) fn dirty_row(&self, session: &str) -> Option<RunRow> {
        lock(&self.dirty).get(session).cloned()
    }
}

/// Goes with a task.
struct Ends {
    shared: Arc<Shared>,
    stopping: CancellationToken,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if !self.stopping.is_cancelled() {
            self.shared.end("a task of the store has ended by itself: this process stops using the database");
        }
    }
}

/// Something was written that others want to see.
pub(super) const REVISION: u8 = 1;
/// Something can be claimed.
pub(super) const QUEUE: u8 = 2;
/// There are messages.
pub(super) const MESSAGES: u8 = 4;
/// A lease was handed back.
pub(super) const LEASES: u8 = 8;

/// What has happened since somebody last looked.
#[derive(Debug, Default)]
pub(super) struct Signal {
    what: AtomicU8,
    raised: Notify,
}

impl Signal {
    pub(super) fn raise(&self, what: u8) {
        if self.what.fetch_or(what, Ordering::AcqRel) & what != what {
            self.raised.notify_one();
        }
    }

    /// What there is, and nothing afterwards.
    pub(super) fn take(&self) -> u8 {
        self.what.swap(0, Ordering::AcqRel)
    }

    pub(super) async fn raised(&self) {
        self.raised.notified().await;
    }
}

/// How long memory is read from without having been compared with the log.
const STALE: Duration = Duration::from_secs(10);

/// Whether reads and writes are possible.
#[derive(Debug)]
pub(super) struct Health {
    state: AtomicU8,
    /// When memory was compared with the log, in milliseconds since boot. It is looked at by whoever reads: no task has to be well
    /// for that.
    heard: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: AtomicU8::default(), heard: AtomicU64::new(since_boot()) }
    }
}

fn since_boot() -> u64 {
    u64::try_from(boottime().as_millis()).unwrap_or(u64::MAX)
}

const WELL: u8 = 0;
/// It was not heard of for a moment: writes are refused.
const AWAY: u8 = 1;
/// It was not heard of for so long that what memory holds says little.
const SILENT: u8 = 2;
const FULL: u8 = 3;
const CLOSED: u8 = 4;

impl Health {
    /// For reads.
    pub(super) fn open(&self) -> Result<(), StoreError> {
        if self.is_closed() {
            return Err(StoreError::Closed);
        }
        if self.is_stale() { Err(silence()) } else { Ok(()) }
    }

    fn is_stale(&self) -> bool {
        Duration::from_millis(since_boot().saturating_sub(self.heard.load(Ordering::Acquire))) > STALE
    }

    pub(super) fn writable(&self) -> Result<(), StoreError> {
        match self.state.load(Ordering::Acquire) {
            AWAY | SILENT => Err(silence()),
            FULL => Err(StoreError::Full),
            CLOSED => Err(StoreError::Closed),
            _ => Ok(()),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// For good.
    pub(super) fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }

    /// Memory is as the log.
    pub(super) fn heard(&self) {
        self.heard.store(since_boot(), Ordering::Release);
        self.change(WELL);
    }

    pub(super) fn away(&self) {
        self.change(if self.is_stale() { SILENT } else { AWAY });
    }

    pub(super) fn full(&self) {
        self.change(FULL);
    }

    /// Tells whether it was something else before.
    fn change(&self, to: u8) {
        let changed = |now| (now != CLOSED && now != to).then_some(to);
        let Ok(before) = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed) else { return };
        match (before, to) {
            (WELL, AWAY) => {
                tracing::warn!("the database cannot be reached: writes are refused until it is back");
            }
            (_, SILENT) => tracing::warn!("the database was not heard of for 10 s: reads are refused until it is back"),
            (_, FULL) => tracing::warn!("the database is full: writes are refused until there is room"),
            (_, WELL) => tracing::info!("the database is back"),
            _ => {}
        }
    }
}

/// The database was not heard of in time.
pub(super) fn silence() -> StoreError {
    StoreError::Away(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))
}
