//! Watches: what they show becomes wakes of keys.
//!
//! A watch of ours never ends by itself: kube's `watcher` lists and watches, and lists anew when the server has
//! forgotten its place; this adds the pauses between attempts, a bound on a list that does not come, and a fresh start
//! when the server refuses to resume.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::{Deserialize, Deserializer};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::index::{Index, Sighting};
use super::metrics::Metrics;

/// A list that has not shown anything for this long is begun anew.
const LIST_STALL: Duration = Duration::from_mins(1);
/// The pause after the first failure of a watch in a row; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The name of an object of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace, when the kind lives in namespaces.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of this object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self { namespace: meta.namespace.clone(), name: meta.name.clone().unwrap_or_default() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// What a watch reads of an object: its metadata alone, whatever else the frame holds.
#[derive(Debug, Clone)]
pub(crate) struct Head<K> {
    pub(crate) metadata: ObjectMeta,
    kind: PhantomData<fn() -> K>,
}

impl<'de, K> Deserialize<'de> for Head<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Parts {
            metadata: ObjectMeta,
        }
        Ok(Self { metadata: Parts::deserialize(deserializer)?.metadata, kind: PhantomData })
    }
}

impl<K: Resource> Resource for Head<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::kind(dt)
    }
    fn group(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::group(dt)
    }
    fn version(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::version(dt)
    }
    fn plural(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::plural(dt)
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Which primary keys a related object concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// None.
    None,
    /// This one.
    Key(Key),
    /// Every known key of this namespace.
    Namespace(String),
}

/// Maps a related object to the keys that it concerns.
pub type Mapping = fn(&ObjectMeta) -> Targets;

/// The controller that owns this object, when it is of this kind: its key is in the same namespace.
pub fn controller_of(meta: &ObjectMeta, kind: &str) -> Targets {
    let owners = meta.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|owner| owner.controller == Some(true) && owner.kind == kind);
    owner.map_or(Targets::None, |owner| {
        Targets::Key(Key { namespace: meta.namespace.clone(), name: owner.name.clone() })
    })
}

/// The controller that owns this object, when it is of this kind and lives in no namespace.
pub fn cluster_controller_of(meta: &ObjectMeta, kind: &str) -> Targets {
    match controller_of(meta, kind) {
        Targets::Key(key) => Targets::Key(Key { namespace: None, ..key }),
        other => other,
    }
}

/// The object, living in no namespace, that bears the name of this one's namespace.
pub fn namespace_of(meta: &ObjectMeta) -> Targets {
    meta.namespace.clone().map_or(Targets::None, |name| Targets::Key(Key { namespace: None, name }))
}

/// Whose keys a watch wakes.
pub(crate) enum Role {
    Primary,
    Related(Mapping),
}

/// Watches a kind until told to stop, and hands over what it shows: of all objects that the field selector picks.
pub(crate) async fn run<K>(
    api: Api<Head<K>>,
    fields: &str,
    (name, metrics): (&'static str, Arc<Metrics>),
    mut sink: impl FnMut(Event<Head<K>>) + Send,
    stop: CancellationToken,
) where
    K: Resource + Clone + fmt::Debug + 'static,
    K::DynamicType: Clone + fmt::Debug + Eq + std::hash::Hash,
{
    let (mut failures, mut first) = (0_u32, true);
    let config = watcher::Config::default();
    let config = if fields.is_empty() { config } else { config.fields(fields) };
    loop {
        let mut events = pin!(watcher::watcher(api.clone(), config.clone()));
        let mut listing = true;
        loop {
            let limit = if listing { LIST_STALL } else { Duration::MAX };
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = tokio::time::timeout(limit, events.next()) => event,
            };
            match event {
                Ok(Some(Ok(event))) => {
                    listing = matches!(event, Event::Init | Event::InitApply(_));
                    // A list that only begins has not succeeded yet.
                    failures = if matches!(event, Event::Init) { failures } else { 0 };
                    metrics.events.increment();
                    let listed = matches!(event, Event::InitDone);
                    sink(event);
                    if listed && std::mem::take(&mut first) {
                        metrics.first_lists.came();
                    }
                }
                Ok(Some(Err(error))) => {
                    failures = failures.saturating_add(1);
                    metrics.watch_failures.increment();
                    let chain = mainstay_runtime::failure::chain_of(&error);
                    tracing::warn!(controller = name, failures, error = chain, "watch failed");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause(failures, rand::random())) => {}
                    }
                    if cannot_resume(&error) {
                        break;
                    }
                }
                Ok(None) | Err(_) => break,
            }
        }
    }
}

/// Whether the watcher would go on asking for what the server no longer has.
fn cannot_resume(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 400 | 410),
        watcher::Error::WatchStartFailed(_)
        | watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

/// The pause after so many failures in a row, drawn from [half, full] of 0.25 s, 0.5 s, ... 30 s.
fn pause(failures: u32, random: f64) -> Duration {
    let full = (FIRST_PAUSE * 2_u32.saturating_pow(failures.saturating_sub(1).min(10))).min(LONGEST_PAUSE);
    full / 2 + (full / 2).mul_f64(random)
}

/// Turns what a watch shows into wakes.
pub(crate) struct Feed {
    index: Index,
    role: Role,
    /// Whom each related object concerned when it was last seen, for when it vanishes unseen.
    concerned: HashMap<Key, Targets>,
    shared: Arc<Shared<Key>>,
}

impl Feed {
    pub(crate) fn new(role: Role, shared: Arc<Shared<Key>>) -> Self {
        Self { index: Index::default(), role, concerned: HashMap::new(), shared }
    }

    pub(crate) fn take<K>(&mut self, event: Event<Head<K>>) {
        match event {
            Event::Init => {
                self.shared.metrics.lists.increment();
                self.index.begin();
            }
            Event::InitApply(head) | Event::Apply(head) => {
                if let Some(sighting) = self.index.apply(&head.metadata) {
                    self.seen(&head.metadata, sighting);
                }
            }
            Event::Delete(head) => {
                let sighting = self.index.delete(&head.metadata);
                self.gone(&sighting, Some(&head.metadata));
            }
            Event::InitDone => {
                for sighting in self.index.end() {
                    self.gone(&sighting, None);
                }
            }
        }
    }

    fn seen(&mut self, meta: &ObjectMeta, sighting: Sighting) {
        let Role::Related(map) = self.role else {
            return self.shared.wake(&sighting.key, sighting.wake, sighting.version);
        };
        let targets = map(meta);
        self.shared.wake_targets(&targets, sighting.version);
        let before = match targets {
            Targets::None => self.concerned.remove(&sighting.key),
            _ => self.concerned.insert(sighting.key, targets.clone()),
        };
        // Who has lost it is concerned as well.
        if let Some(before) = before.filter(|before| *before != targets) {
            self.shared.wake_targets(&before, sighting.version);
        }
    }

    /// An object is gone: `last` is how it was shown last, if its deletion was shown at all.
    fn gone(&mut self, sighting: &Sighting, last: Option<&ObjectMeta>) {
        let Role::Related(map) = self.role else {
            return self.shared.wake(&sighting.key, sighting.wake, sighting.version);
        };
        let before = self.concerned.remove(&sighting.key);
        let targets = last.map(map).filter(|targets| *targets != Targets::None).or(before);
        self.shared.wake_targets(&targets.unwrap_or(Targets::None), sighting.version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_keep_a_floor() {
        assert_eq!(pause(1, 0.0), FIRST_PAUSE / 2);
        assert_eq!(pause(2, 1.0), FIRST_PAUSE * 2);
        assert_eq!(pause(40, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(40, 0.0), LONGEST_PAUSE / 2);
    }

    #[test]
    fn a_place_that_the_server_forgot_is_not_asked_for_again() {
        let gone = |code| kube::core::response::Status::failure("too old", "Expired").with_code(code).boxed();
        assert!(cannot_resume(&watcher::Error::WatchStartFailed(kube::Error::Api(gone(410)))));
        assert!(!cannot_resume(&watcher::Error::WatchStartFailed(kube::Error::Api(gone(503)))));
    }
}
