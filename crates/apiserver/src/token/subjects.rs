//! Whether what a token speaks for is still there.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use mainstay_api::phase::Phase;
use mainstay_store::{Key, Object, Store, StoreError};
use serde::Deserialize;

/// An object that a token speaks for or is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its uid.
    pub uid: Arc<str>,
    /// The session's current run; `None` for other kinds, and for a session that never ran.
    pub run: Option<u64>,
    /// The session's run is over; false for other kinds.
    pub ended: bool,
}

/// Looks up the objects that tokens depend on.
pub trait Subjects: Send + Sync + 'static {
    /// The object now; `None` when there is none.
    fn find(&self, key: Key) -> BoxFuture<'_, Result<Option<Subject>, StoreError>>;
}

/// The objects in a store.
pub struct StoreSubjects(Arc<dyn Store>);

impl StoreSubjects {
    /// The objects in this store.
    pub const fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }
}

impl std::fmt::Debug for StoreSubjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreSubjects")
    }
}

impl Subjects for StoreSubjects {
    fn find(&self, key: Key) -> BoxFuture<'_, Result<Option<Subject>, StoreError>> {
        async move { Ok(self.0.get(&key).await?.map(|object| subject(&object))) }.boxed()
    }
}

#[derive(Deserialize)]
struct Session {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: Phase,
    run: Option<u64>,
}

pub(super) fn subject(object: &Object) -> Subject {
    let uid = Arc::clone(&object.meta.uid);
    if &*object.key.resource != super::SESSIONS {
        return Subject { uid, run: None, ended: false };
    }
    // A session that cannot be read gives nobody any right.
    serde_json::from_slice::<Session>(&object.body).map_or(
        Subject { uid: Arc::clone(&uid), run: None, ended: true },
        |session| Subject { uid, run: session.status.run, ended: session.status.phase.is_terminal() },
    )
}
