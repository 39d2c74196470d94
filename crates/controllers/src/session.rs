//! Reconciles a [`Session`] with the one Pod of its run.
//!
//! Desired: `spec` and `deletionTimestamp`. Observed: the run's Pod as the API shows it now, and, before there is one,
//! what it is to be made of.
//!
//! Invariants:
//! - A run is executed at most once: its Pod's name is fixed by session and run, it is made only while the session is
//!   Pending in that run and no heartbeat of it was ever accepted, and a run that ended is never begun again.
//! - A run is judged by what its Pod recorded; a Pod that is gone without a record is a lost run, not a new one. A Pod
//!   that somebody deletes stays until its record is judged (see [`crate::pod`]).
//! - The reason of a stop is stored before the Pod is told to stop, so that a crash between cannot change it.
//! - A status is written on the version that was read, so that two writers cannot undo each other.
//! - What was not heard while the controller was away counts as silence only once there was time to say it.
//! - Deleting a session stops and removes its own Pods, and touches nothing else.

mod observe;
mod plan;
mod pod;
mod status;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference};
use kube::{Client, Resource};
use mainstay_api::names;
use mainstay_api::project::Project;
use mainstay_api::session::{Session, SessionStatus};
use mainstay_runtime::{Class, Classify, Clock, Failure, Reason, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::driver::{Driver, Key, Targets, controller_of};
use crate::objects::Objects;
use crate::placing::Placer;
use crate::reconcile::{Effect, FencingToken, Next, Plan, Reconciler};
pub use observe::Observed;

/// A session that the quota keeps back looks again this often, in case what was freed cannot be watched; the end of a
/// session of the same project wakes it at once.
const BLOCKED_RESYNC: Duration = Duration::from_secs(5);

/// After a start, supervisors need so long to come back with what happened while nobody listened: they try again at
/// least every two seconds. Until then silence is no sign of anything.
const SETTLE: Duration = Duration::from_millis(2_500);

/// The reconciler of sessions.
#[derive(Debug)]
pub struct SessionReconciler {
    objects: Objects,
    placer: Placer,
    clock: Clock,
    started: Instant,
    /// Sessions that the quota keeps back. Losing it costs a delay, never a session.
    blocked: Mutex<HashSet<Key>>,
}

/// One effect on a session's world.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Hand over the first message, exactly once by its id; when the API will not have it, say why in the status, as of
    /// this time.
    SendPrompt(String, Timestamp),
    /// Make the run's Pod; when the API will not have it, say why in the status, as of this time.
    CreatePod(Box<mainstay_api::pod::Pod>, Timestamp),
    /// Tell this Pod (name, uid) to stop; it stays, with its log.
    StopPod(String, String),
    /// Tell this Pod (name, uid) to stop and go.
    DeletePod(String, String),
    /// The end of this Pod (name, uid) is judged: as far as the session goes, it may go.
    ReleasePod(String, String),
    /// Write this status.
    WriteStatus(Box<SessionStatus>),
    /// Let the session go.
    RemoveFinalizer,
}

/// A driver of sessions, ready to start.
pub fn driver(client: Client, clock: &Clock) -> Driver<SessionReconciler> {
    let objects = Objects::new(client.clone());
    let (clock, started) = (clock.clone(), Instant::now());
    let placer = Placer::new(objects.clone());
    let reconciler = SessionReconciler { objects, placer, clock, started, blocked: Mutex::default() };
    Driver::new(reconciler, client)
        .related::<Pod>(|meta| controller_of(meta, "Session"))
        .related::<Project>(|meta| meta.name.clone().map_or(Targets::None, Targets::Namespace))
}

impl Reconciler for SessionReconciler {
    type Object = Session;
    type Observed = Observed;
    type Action = Action;
    const NAME: &'static str = "session";
    const CONCURRENCY: usize = 64;

    async fn observe(&self, session: &Session) -> Result<Observed, Failure> {
        let mut observed = observe::observe(&self.objects, &self.clock, session).await?;
        if observed.is_to_be_placed() {
            observed.node = self.place(session).await?;
        }
        observed.settling = SETTLE.saturating_sub(self.started.elapsed());
        Ok(observed)
    }

    fn plan(session: &Session, observed: &Observed, now: Timestamp) -> Plan<Action> {
        plan::plan(session, observed, now)
    }

    async fn apply(&self, session: &Session, action: Action, token: FencingToken) -> Result<Effect, Failure> {
        match action {
            Action::SendPrompt(text, at) => self.send_prompt(session, &text, at).await,
            Action::CreatePod(pod, at) => self.create_pod(session, *pod, at, token).await,
            Action::StopPod(name, uid) => self.stop_pod(session, name, &uid).await,
            Action::DeletePod(name, uid) => self.objects.delete::<Pod>(&beside(session, name), Some(&uid)).await,
            Action::ReleasePod(name, uid) => self.release_pod(session, name, &uid).await,
            Action::WriteStatus(new) => self.write_status(session, &new).await,
            Action::RemoveFinalizer => self.remove_finalizer(session).await,
        }
    }

    fn conditions(session: &Session) -> &[Condition] {
        session.status.as_ref().map_or(&[], |status| &status.conditions)
    }
}

/// The key of something of this name in the session's namespace.
fn beside(session: &Session, name: impl Into<String>) -> Key {
    Key { namespace: session.metadata.namespace.clone(), name: name.into() }
}

/// The owner reference that Pods of this session carry.
fn owner_reference(session: &Session) -> OwnerReference {
    OwnerReference {
        api_version: Session::api_version(&()).into_owned(),
        kind: Session::kind(&()).into_owned(),
        name: session.metadata.name.clone().unwrap_or_default(),
        uid: session.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

impl SessionReconciler {
    /// The node for the next run. A workspace that is kept is where the last run was, whether or not that node is ready.
    async fn place(&self, session: &Session) -> Result<Option<String>, Failure> {
        let last = session.status.as_ref().and_then(|status| status.node.clone());
        match last.filter(|_| session.spec.workspace.keep) {
            Some(node) => Ok(Some(node)),
            None => self.placer.place().await,
        }
    }

    async fn send_prompt(&self, session: &Session, text: &str, at: Timestamp) -> Result<Effect, Failure> {
        let body = json!({ "messages": [{ "id": "prompt-1", "type": "user", "text": text }] });
        let place = Session::url_path(&(), session.metadata.namespace.as_deref());
        let name = session.metadata.name.as_deref().unwrap_or_default();
        let messages = format!("{place}/{name}/messages");
        match self.objects.post::<Value>(&messages, &body, "send the session's prompt").await {
            Ok(_) => Ok(Effect::NONE),
            Err(failure) => match failure.class() {
                Class::Terminal(reason) => self.refused(session, reason, &failure, at).await,
                _ => Err(failure),
            },
        }
    }

    async fn create_pod(
        &self,
        session: &Session,
        mut pod: mainstay_api::pod::Pod,
        at: Timestamp,
        token: FencingToken,
    ) -> Result<Effect, Failure> {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(names::FENCE.to_owned(), token.0.to_string());
        let key = beside(session, pod.metadata.name.clone().unwrap_or_default());
        match self.objects.create::<Pod>(&key, &pod).await {
            Ok(Some(pod)) => {
                self.with_blocked(|blocked| blocked.remove(&Key::of(&session.metadata)));
                Ok(Effect::wrote(&pod.metadata))
            }
            // It came into being since we looked: look again, and judge it.
            Ok(None) => Err(Failure::new(Class::Conflict, format!("create Pod {key}: there is one already"))),
            Err(failure) => match failure.class() {
                Class::Terminal(Reason::QuotaExceeded) => self.block(session, &failure, at).await,
                Class::Terminal(reason) => self.refused(session, reason, &failure, at).await,
                _ => Err(failure),
            },
        }
    }

    async fn stop_pod(&self, session: &Session, name: String, uid: &str) -> Result<Effect, Failure> {
        let body = json!({ "metadata": { "uid": uid, "annotations": { names::STOP: "true" } } });
        self.objects.merge::<Pod>(&beside(session, name), &body).await
    }

    /// Should this fail, the Pod's own reconciler sees that its end is judged.
    async fn release_pod(&self, session: &Session, name: String, uid: &str) -> Result<Effect, Failure> {
        match self.objects.get::<Pod>(&beside(session, name)).await? {
            Some(pod) if pod.metadata.uid.as_deref() == Some(uid) => {
                self.objects.remove_finalizer(&pod, names::SESSION_FINALIZER).await
            }
            _ => Ok(Effect::NONE),
        }
    }

    /// The quota is used up: the session stays Pending and says why.
    async fn block(&self, session: &Session, failure: &Failure, at: Timestamp) -> Result<Effect, Failure> {
        self.with_blocked(|blocked| blocked.insert(Key::of(&session.metadata)));
        let effect = match status::blocked(session, &failure.chain(), at) {
            Some(new) => self.write_status(session, &new).await?,
            None => Effect::NONE,
        };
        Ok(effect.halting(Next::After(BLOCKED_RESYNC)))
    }

    /// The API will never have this prompt, or this Pod: the run failed before it began (R20).
    async fn refused(
        &self,
        session: &Session,
        reason: Reason,
        failure: &Failure,
        at: Timestamp,
    ) -> Result<Effect, Failure> {
        let message = failure.chain();
        let change = status::Change::Failed { reason: reason.as_str(), message: &message, exit_code: None };
        let effect = self.write_status(session, &status::next(session, &change, at)).await?;
        Ok(effect.halting(Next::AwaitChange))
    }

    async fn write_status(&self, session: &Session, new: &SessionStatus) -> Result<Effect, Failure> {
        let key = Key::of(&session.metadata);
        let effect = self.objects.merge_status::<Session>(&key, &status::patch(session, new)).await?;
        if !new.phase.is_terminal() {
            return Ok(effect);
        }
        Ok(effect.waking(self.freed(&key)))
    }

    async fn remove_finalizer(&self, session: &Session) -> Result<Effect, Failure> {
        let effect = self.objects.remove_finalizer(session, names::SESSION_FINALIZER).await?;
        Ok(effect.waking(self.freed(&Key::of(&session.metadata))))
    }

    /// This session no longer takes anything: whoever the quota keeps back in its project looks again.
    fn freed(&self, key: &Key) -> Vec<Key> {
        self.with_blocked(|blocked| {
            blocked.remove(key);
            blocked.extract_if(|other| other.namespace == key.namespace).collect()
        })
    }

    fn with_blocked<T>(&self, work: impl FnOnce(&mut HashSet<Key>) -> T) -> T {
        work(&mut self.blocked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
