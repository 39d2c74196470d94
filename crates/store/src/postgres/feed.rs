//! Brings memory forward: by what this process wrote, and by what the log says that others did.
//!
//! Revisions have no gaps and are in the order of the commits, so whoever reads the log from where memory stands, and finds
//! the next revision, has missed nothing. A hint from another replica only says when to look; without one it is looked at
//! once a second; behind a transaction pooler, where there are no hints, four times.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::{sleep, timeout};
use tokio_postgres::Notification;

use super::link::{Link, Listener, Session};
use super::rows::{self, Ends, Logged};
use super::shared::{LEASES, MESSAGES, QUEUE, REVISION, Shared, silence};
use super::{STALENESS, talk};
use crate::error::StoreError;
use crate::object::Revision;
use crate::operation::on_disk;
use crate::watch::{Change, ChangeKind};

/// How often the log is looked at without a hint.
const LOOK: Duration = Duration::from_secs(1);
/// Between a look and the next, and between what others are told and the next, whatever is hinted: what comes meanwhile is seen, or
/// told, together.
const PACE: Duration = Duration::from_millis(2);
/// How often where no hint comes: behind a transaction pooler nobody can listen.
const DEAF: Duration = Duration::from_millis(250);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The right to bring memory forward.
pub(super) type Publishing<'a> = MutexGuard<'a, ()>;

impl Shared {
    /// Makes changes visible.
    pub(super) fn publish(&self, _: &Publishing<'_>, changes: &[Arc<Change>]) {
        self.hub.publish(changes);
    }

    /// Brings memory to a revision at least, or to the newest.
    pub(super) async fn catch_up(&self, held: &Publishing<'_>, upto: Option<Revision>) -> Result<(), StoreError> {
        loop {
            let at = self.hub.published();
            if upto.is_some_and(|upto| at >= upto) {
                return Ok(());
            }
            let (Ends { newest, floor, generation }, logged) = rows::log(&self.follower, at).await?;
            self.ring.send_if_modified(|known| std::mem::replace(known, generation) != generation);
            if newest < at {
                // What was told to clients is not there: it is an older state.
                self.enter(&self.link).await?;
                return self.restart(held).await;
            }
            if floor > at {
                return self.restart(held).await;
            }
            self.hub.raise_floor(floor);
            if newest == at {
                return Ok(());
            }
            let whole = logged.iter().zip(at.0 + 1..).all(|(change, revision)| change.object.revision.0 == revision);
            if logged.is_empty() || !whole {
                return self.restart(held).await;
            }
            let Some(changes) = self.changes(logged) else { return self.restart(held).await };
            self.publish(held, &changes);
            if changes.iter().any(|change| on_disk(&change.object.key.resource)) {
                self.wake_queue();
            }
            if self.hub.published() == newest {
                return Ok(());
            }
        }
    }

    /// Brings memory to a revision, or to the newest that there is now.
    pub(super) async fn reach(self: Arc<Self>, revision: Revision) -> Result<(), StoreError> {
        let look = async {
            let held = self.publishing.lock().await;
            self.catch_up(&held, Some(revision)).await
        };
        timeout(STALENESS, look).await.map_err(|_| silence())?
    }

    /// What the log says as changes; `None` when memory does not hold what it changed.
    fn changes(&self, logged: Vec<Logged>) -> Option<Vec<Arc<Change>>> {
        let mut ahead = std::collections::HashMap::new();
        let mut changes = Vec::with_capacity(logged.len());
        for Logged { kind, object, previous } in logged {
            let key = self.hub.objects().intern(&object.key);
            let before = match kind {
                ChangeKind::Created => None,
                _ if on_disk(&key.resource) => previous,
                _ => ahead.get(&key).cloned().unwrap_or_else(|| self.hub.get(&key)),
            };
            if before.is_none() && kind != ChangeKind::Created {
                return None;
            }
            let place = (key.clone(), object.revision, object.meta);
            let change = Arc::new(Change::replayed(kind, place, &object.body, before));
            ahead.insert(key, (kind != ChangeKind::Deleted).then(|| Arc::clone(&change.object)));
            changes.push(change);
        }
        Some(changes)
    }

    /// Memory is loaded anew: what is between is not to be had.
    async fn restart(&self, _: &Publishing<'_>) -> Result<(), StoreError> {
        let (objects, floor) = rows::load(&self.link).await?;
        tracing::warn!(
            revision = objects.revision().0,
            "the history does not lead on from what is in memory: loaded anew"
        );
        self.hub.restart(objects, floor);
        self.wake_queue();
        Ok(())
    }
}

/// Follows the log until the store is closed.
pub(super) async fn follow(shared: Arc<Shared>) {
    let stopping = shared.tasks.stopping();
    let signals = signals(&shared);
    let (mut listening, mut hears) = (None, true);
    while !stopping.is_cancelled() && !shared.health.is_closed() {
        let told = shared.inbound.take();
        if told & QUEUE != 0 {
            shared.wake_queue();
        }
        let look = async {
            hears = listen(&signals, &mut listening).await;
            let held = shared.publishing.lock().await;
            shared.catch_up(&held, None).await?;
            drop(held);
            // Without a hint those, too: hints may be lost.
            if told & MESSAGES != 0 || told == 0 { talk::look(&shared).await } else { Ok(()) }
        };
        match timeout(PATIENCE, look).await {
            Ok(Ok(())) => shared.health.heard(),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the log could not be read");
                shared.health.away();
            }
            Err(_) => {
                shared.health.away();
                shared.follower.hang_up().await;
                signals.hang_up().await;
            }
        }
        sleep(PACE).await;
        tokio::select! {
            () = shared.inbound.raised() => {}
            () = sleep(if hears { LOOK } else { DEAF }) => {}
            () = stopping.cancelled() => {}
        }
    }
}

/// The connection on which replicas tell each other that there is something to look at.
pub(super) fn signals(shared: &Arc<Shared>) -> Link {
    let (weak, own) = (Arc::downgrade(shared), name(shared));
    let listener: Listener = Arc::new(move |told: Notification| {
        if let (Some(shared), Some((sender, what))) = (weak.upgrade(), told.payload().rsplit_once(' '))
            && sender != own
        {
            let what = what.parse().unwrap_or(REVISION | QUEUE | MESSAGES | LEASES);
            if what & LEASES != 0 {
                shared.leadership.nudge();
            }
            shared.inbound.raise(what);
        }
    });
    Link::new(
        &shared.options.address,
        format!("mainstay {} hints", shared.options.replica),
        &shared.connections,
        Some(listener),
    )
}

/// What this process is called in hints.
fn name(shared: &Shared) -> String {
    format!("{} {}", shared.options.replica, shared.term.load(Ordering::Acquire))
}

/// Sees to it that hints come; tells whether they do.
async fn listen(link: &Link, listening: &mut Option<Arc<Session>>) -> bool {
    let Ok(session) = link.session().await else { return true };
    if !listening.as_ref().is_some_and(|known| Arc::ptr_eq(known, &session))
        && session.is_own()
        && link.run("LISTEN mainstay").await.is_ok()
    {
        *listening = Some(Arc::clone(&session));
    }
    session.is_own()
}

/// Tells the other replicas; what comes meanwhile is told together.
pub(super) async fn tell(shared: Arc<Shared>) {
    let stopping = shared.tasks.stopping();
    let link = Link::new(
        &shared.options.address,
        format!("mainstay {} tells", shared.options.replica),
        &shared.connections,
        None,
    );
    loop {
        tokio::select! {
            () = shared.outbound.raised() => {}
            () = stopping.cancelled() => return,
        }
        let payload = format!("{} {}", name(&shared), shared.outbound.take());
        // One that is lost is made up for by the next look.
        link.query("SELECT pg_notify('mainstay', $1)", &[&payload]).await.ok();
        sleep(PACE).await;
    }
}
