//! The end of old keys: what is sealed under an old data key is sealed anew, each object at the revision that was read;
//! and versions of keys go when nothing can need them any more.
//!
//! | key | goes |
//! |---|---|
//! | `tokens` | when the longest token that it can have signed is over |
//! | `ca` | [`TRUSTED`] after the newer one was made |
//! | `data` | when nothing is sealed under it, in no earlier state either that can still be read |
//!
//! The last takes three steps, each as long as a replica may go on without hearing of the ring, or a client without reading:
//! nobody seals under the old key any more; nothing that is current is sealed under it; what was before that is compacted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use mainstay_runtime::duty::{Tick, table};
use mainstay_runtime::{Doing, Failure};
use mainstay_store::{Fence, ListQuery, Object, Revision, StoreError, Write};
use tokio::time::Instant;

use crate::audit::sealed_values;
use crate::catalog::Entry;
use crate::habits;
use crate::keys::{KeyName, Keys};
use crate::object;
use crate::server::ApiServer;
use crate::status::{About, ApiError, ApiResult};
use crate::token::request::LONGEST;

/// How long an authority is trusted after the next one was made: as long as a client may take to be given that one.
pub(crate) const TRUSTED: Duration = Duration::from_hours(30 * 24);
/// What clocks of replicas may differ by, and what a request may take.
const MARGIN: Duration = Duration::from_mins(10);
/// Objects that are written at once.
const AT_ONCE: usize = 32;

/// How far the end of old data keys has come; known to one process, begun anew by the next.
#[derive(Debug, Default)]
struct Progress(Option<Steps>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Steps {
    /// The version under which all is to be.
    newest: u64,
    /// Since when it has been used here.
    since: Instant,
    /// A revision at which nothing was sealed under another, and when that was seen.
    clean: Option<(Revision, Instant)>,
}

/// Starts the duty.
pub(crate) fn keep_up(server: &ApiServer) {
    let sealed = [("", "secrets"), (mainstay_api::GROUP, "credentials")];
    let entries: Vec<_> =
        sealed.iter().filter_map(|(group, plural)| server.catalog().of_group(group, plural)).collect();
    let entries: Arc<[Arc<Entry>]> = entries.into_iter().cloned().collect();
    let (owned, progress) = (server.clone(), Arc::<Mutex<Progress>>::default());
    server.duties().start(&table::RESEAL, move |tick| pass(owned.clone(), entries.clone(), progress.clone(), tick));
}

async fn pass(
    server: ApiServer,
    entries: Arc<[Arc<Entry>]>,
    progress: Arc<Mutex<Progress>>,
    tick: Tick,
) -> Result<(), Failure> {
    const DOING: &str = "retire old keys";
    let (keys, now) = (server.access().keys(), server.clock().now());
    keys.renew_authority(now).await.doing("renew the authority")?;
    for (name, span) in [(KeyName::Tokens, LONGEST + MARGIN), (KeyName::Ca, TRUSTED)] {
        let over = keys.superseded(name, span, now);
        if !over.is_empty() {
            tick.check()?;
            keys.retire(name, &over).await.doing(DOING)?;
            tracing::info!(key = name.as_str(), versions = ?over, "versions were retired");
        }
    }
    let steps = progress.lock().unwrap_or_else(PoisonError::into_inner).0;
    let steps = data(&server, &entries, &tick, steps).await?;
    progress.lock().unwrap_or_else(PoisonError::into_inner).0 = steps;
    Ok(())
}

/// Goes on with the end of old data keys, if there are any.
async fn data(
    server: &ApiServer,
    entries: &[Arc<Entry>],
    tick: &Tick,
    steps: Option<Steps>,
) -> Result<Option<Steps>, Failure> {
    const DOING: &str = "seal anew what is sealed under an old key";
    let keys = server.access().keys();
    let Some((newest, old)) = keys.older(KeyName::Data) else { return Ok(None) };
    let begun = Steps { newest, since: Instant::now(), clean: None };
    let steps = steps.filter(|steps| steps.newest == newest).unwrap_or(begun);
    let (at, left) = reseal(server, entries, tick).await.doing(DOING)?;
    match steps.next(at, left, patience(server, keys), Instant::now()) {
        Next::Wait(steps) => Ok(Some(steps)),
        Next::Retire(revision) => {
            tick.check()?;
            server.store().compact(revision).await.doing(DOING)?;
            keys.retire(KeyName::Data, &old).await.doing(DOING)?;
            tracing::info!(key = "data", versions = ?old, "versions were retired");
            Ok(None)
        }
    }
}

/// What a pass makes of what it has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Wait(Steps),
    /// What was before this revision is to be compacted; then nothing needs the old key.
    Retire(Revision),
}

impl Steps {
    /// At `now` a pass has found `left` values under an old key, at the revision `at`.
    fn next(self, at: Revision, left: usize, wait: Duration, now: Instant) -> Next {
        let waited = |since: Instant| now.duration_since(since) >= wait;
        match self.clean {
            _ if left > 0 || !waited(self.since) => Next::Wait(Self { clean: None, ..self }),
            None => Next::Wait(Self { clean: Some((at, now)), ..self }),
            Some((revision, seen)) if waited(seen) => Next::Retire(revision),
            Some(_) => Next::Wait(self),
        }
    }
}

/// How long each step takes: whatever was begun under the old key is over then.
fn patience(server: &ApiServer, keys: &Keys) -> Duration {
    if keys.is_shared() { MARGIN } else { server.limits().request }
}

/// Seals anew what is sealed under an old key; gives the revision that was looked at, and how much of that is left.
async fn reseal(server: &ApiServer, entries: &[Arc<Entry>], tick: &Tick) -> Result<(Revision, usize), ApiError> {
    let (mut at, mut left, mut done) = (server.store().revision(), 0, 0);
    for entry in entries {
        let failed = |error: &StoreError| ApiError::from_store(error, About { kind: &entry.kind, name: "" });
        let query = ListQuery { scope: entry.scope(None), limit: None, at: None, after: None };
        let page = server.store().list(query).await.map_err(|error| failed(&error))?;
        at = at.min(page.revision);
        let mut old = Vec::new();
        for stored in &page.items {
            if is_old(server, entry, stored)? {
                old.push(stored);
            }
        }
        for some in old.chunks(AT_ONCE) {
            if tick.check().is_err() {
                return Ok((at, old.len()));
            }
            let sealed = join_all(some.iter().map(|stored| anew(server, entry, stored, tick.term))).await;
            done += sealed.iter().filter(|sealed| sealed.is_ok()).count();
        }
        // What was done now is looked at by the next pass.
        left += old.len();
    }
    if left > 0 {
        tracing::info!(done, left = left - done, "objects were sealed under the newest data key");
    }
    Ok((at, left))
}

fn is_old(server: &ApiServer, entry: &Entry, stored: &Object) -> ApiResult<bool> {
    let body = object::parse(stored)?;
    Ok(sealed_values(&entry.kind, &body).iter().any(|(_, value)| !server.sealer().is_current(value)))
}

/// Seals an object's values under the key that is used now, if it is still as it was read, and the duty still this process's.
async fn anew(server: &ApiServer, entry: &Entry, stored: &Arc<Object>, term: u64) -> ApiResult<()> {
    let opened = habits::opened(server, entry, object::parse(stored)?)?;
    let draft = habits::sealed_draft(server, entry, &opened)?;
    let write = Write::Update { key: stored.key.clone(), draft, expected: stored.revision };
    let fence = Fence { lease: table::RESEAL.name.into(), term };
    match server.store().write_under(fence, write).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let about = About { kind: &entry.kind, name: &stored.key.name };
            Err(ApiError::from_store(&error, about))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_old_key_goes_only_after_nobody_seals_under_it_and_nothing_that_can_be_read_is() {
        let (wait, start) = (Duration::from_mins(10), Instant::now());
        let begun = Steps { newest: 2, since: start, clean: None };
        let at = |minutes: u64| start + Duration::from_mins(minutes);
        let next = |steps: Steps, revision, left, minutes| steps.next(Revision(revision), left, wait, at(minutes));
        let clean = |revision, minutes| Steps { clean: Some((Revision(revision), at(minutes))), ..begun };
        assert_eq!(next(begun, 5, 0, 9), Next::Wait(begun), "somebody may still seal under it");
        assert_eq!(next(begun, 6, 3, 11), Next::Wait(begun), "not all is sealed anew");
        assert_eq!(next(begun, 7, 0, 12), Next::Wait(clean(7, 12)));
        assert_eq!(next(clean(7, 12), 9, 0, 21), Next::Wait(clean(7, 12)), "what was before can still be read");
        assert_eq!(next(clean(7, 12), 9, 1, 23), Next::Wait(begun), "something came back: from the beginning");
        assert_eq!(next(clean(7, 12), 9, 0, 22), Next::Retire(Revision(7)));
    }
}
