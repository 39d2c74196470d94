//! The newest activity of sessions: known at once in memory, merged in when a session is read, and written to its
//! status at most every ten seconds, so that messages do not become revisions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainstay_runtime::duty::{Tick, table};
use mainstay_runtime::{Doing, Failure, Timestamp};
use mainstay_store::{Key, Object, Store, StoreError, Write};
use serde::Deserialize;

use crate::catalog::Entry;
use crate::habits::session;
use crate::object;
use crate::server::ApiServer;
use crate::status::{About, ApiError, ApiResult};

/// What happened in a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Number of the last message.
    pub(crate) last_message: u64,
    /// Wall-clock milliseconds of the last activity.
    pub(crate) activity_ms: i64,
}

impl Seen {
    fn with(self, other: Self) -> Self {
        Self {
            last_message: self.last_message.max(other.last_message),
            activity_ms: self.activity_ms.max(other.activity_ms),
        }
    }
}

#[derive(Debug)]
struct Known {
    key: Key,
    seen: Seen,
    /// What the stored status is known to hold.
    written: Seen,
    /// What earlier servers saw and did not write is in `seen`, too.
    whole: bool,
}

/// Activity of the sessions that were used since this server started.
#[derive(Debug, Default)]
pub(crate) struct Activity(Mutex<HashMap<Arc<str>, Known>>);

impl Activity {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes activity of a session.
    pub(crate) fn note(&self, session: &Object, seen: Seen) {
        let mut known = self.lock();
        let known = known.entry(session.meta.uid.clone()).or_insert_with(|| Known {
            key: session.key.clone(),
            seen,
            written: Seen::default(),
            whole: false,
        });
        known.seen = known.seen.with(seen);
    }

    /// Notes all that earlier servers saw; gives what is known now.
    fn note_earlier(&self, session: &Object, earlier: Seen) -> Seen {
        self.note(session, earlier);
        let mut all = self.lock();
        let Some(known) = all.get_mut(&session.meta.uid) else { return earlier };
        known.whole = true;
        known.seen
    }

    /// The status of this session now holds `written`.
    fn note_written(&self, uid: &str, written: Seen) {
        if let Some(known) = self.lock().get_mut(uid) {
            known.written = known.written.with(written);
        }
    }

    /// Forgets a session.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn unwritten(&self) -> Vec<(Arc<str>, Key, Seen)> {
        let known = self.lock();
        let dirty = known.iter().filter(|(_, known)| known.seen != known.written);
        dirty.map(|(uid, known)| (uid.clone(), known.key.clone(), known.seen)).collect()
    }

    /// Activity that a session's stored status may not show yet.
    ///
    /// # Errors
    /// What the store refuses.
    pub(crate) async fn newer(&self, server: &ApiServer, session: &Object) -> ApiResult<Option<Seen>> {
        let known = self.lock().get(&session.meta.uid).map(|known| (known.seen, known.written, known.whole));
        if let Some((seen, written, true)) = known {
            return Ok((seen != written).then_some(seen));
        }
        let failed = |error| ApiError::unavailable(format!("a session's activity cannot be read: {error}"));
        let earlier = earlier(&**server.store(), session).await.map_err(failed)?;
        Ok(Some(self.note_earlier(session, earlier)))
    }

    /// A read found that the stored status shows all of `seen`.
    pub(crate) fn settled(&self, uid: &str, seen: Seen) {
        self.note_written(uid, seen);
    }
}

/// What was seen of a session before this server started, written or not: its row, and its last message.
async fn earlier(store: &dyn Store, session: &Object) -> Result<Seen, StoreError> {
    #[derive(Deserialize)]
    struct Sent {
        time: Timestamp,
    }
    let uid = &session.meta.uid;
    let mut activity_ms = store.run_row(uid).await?.unwrap_or_default().activity_ms;
    let last_message = *store.message_counter(uid).await?.borrow();
    if last_message > 0 {
        let newest = store.messages(uid, last_message - 1, 1).await?.messages.pop();
        let sent = newest.and_then(|message| serde_json::from_slice::<Sent>(&message.body).ok());
        activity_ms = activity_ms.max(sent.map_or(0, |sent| sent.time.as_millisecond()));
    }
    Ok(Seen { last_message, activity_ms })
}

/// Starts the duty that writes activity to status.
pub(crate) fn keep_written(server: &ApiServer) {
    let Some(entry) = server.catalog().of_group(mainstay_api::GROUP, "sessions").cloned() else { return };
    let owned = server.clone();
    server.duties().start(&table::SESSION_ACTIVITY, move |tick| write_all(owned.clone(), entry.clone(), tick));
}

/// Writes what is not written yet. One that cannot be written does not keep the others; the first such is the outcome.
async fn write_all(server: ApiServer, entry: Arc<Entry>, tick: Tick) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for (uid, key, seen) in server.activity().unwritten() {
        tick.check()?;
        let written = write(&server, &entry, &uid, &key, seen).await;
        outcome = outcome.and(written.doing(format!("write the activity of session {key}")));
    }
    outcome
}

async fn write(server: &ApiServer, entry: &Entry, uid: &Arc<str>, key: &Key, seen: Seen) -> ApiResult<()> {
    let failed = |error: &StoreError| ApiError::from_store(error, About { kind: &entry.kind, name: &key.name });
    let found = server.store().get(key).await.map_err(|error| failed(&error))?;
    let Some(current) = found.filter(|current| current.meta.uid == *uid) else {
        server.activity().forget(uid);
        return Ok(());
    };
    let mut value = object::parse(&current)?;
    if session::merge(&mut value, seen.last_message, seen.activity_ms) {
        let draft = object::draft(entry, &value)?;
        let update = Write::Update { key: key.clone(), draft, expected: current.revision };
        match server.store().write(update).await {
            Ok(_) => {}
            // Somebody else wrote; the next round tries again.
            Err(StoreError::Conflict(_) | StoreError::Missing) => return Ok(()),
            Err(error) => return Err(failed(&error)),
        }
    }
    server.activity().note_written(uid, seen);
    Ok(())
}
