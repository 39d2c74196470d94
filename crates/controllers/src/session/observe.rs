//! What is read of a session's world, phase by phase: no more than the plan needs.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Resource;
use mainstay_api::agent::Agent;
use mainstay_api::credential::Credential;
use mainstay_api::names;
use mainstay_api::phase::Phase;
use mainstay_api::project::Project;
use mainstay_api::session::Session;
use mainstay_runtime::clock::Timeline;
use mainstay_runtime::{Clock, Failure, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{beside, pod};
use crate::driver::Key;
use crate::objects::Objects;

/// A session's world.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The Pod of the run that the status speaks of.
    pub(super) pod: Option<PodView>,
    /// Other Pods of this session; read only when the session is Pending or is being deleted.
    pub(super) others: Vec<PodView>,
    /// The last sign of life; read only when the plan may depend on it.
    pub(super) heartbeat: Heartbeat,
    /// The session's project, if its namespace is one's.
    pub(super) project: Option<Project>,
    /// The agent that the session names.
    pub(super) agent: Option<Agent>,
    /// How the wall clock was set, which limits of time are not to notice.
    pub(super) timeline: Timeline,
    /// How long supervisors still have to say what happened while the controller was away.
    pub(super) settling: Duration,
    /// What the session names and is definitely not there.
    pub(super) missing: Option<Missing>,
    /// The whole of what a Pod is made of was read.
    pub(super) prepared: bool,
    /// The node for the run's Pod; none is ready, or none is needed, when absent.
    pub(super) node: Option<String>,
}

impl Observed {
    /// Whether a Pod may be made of what was read.
    pub(super) const fn is_to_be_placed(&self) -> bool {
        self.prepared && self.missing.is_none() && self.others.is_empty()
    }
}

/// Something that the session needs and that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A row of the session's heartbeats; run 0 when there was none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Heartbeat {
    #[serde(default)]
    pub(super) run: u64,
    #[serde(default, deserialize_with = "time")]
    pub(super) time: Option<Timestamp>,
    #[serde(default)]
    pub(super) busy: bool,
}

/// A row that was never written has no time.
fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
}

/// What matters of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PodView {
    pub(super) name: String,
    pub(super) uid: String,
    /// It belongs to this very session.
    pub(super) ours: bool,
    pub(super) deleting: bool,
    /// It stays until the session has read how it ended.
    pub(super) held: bool,
    /// It was told to stop and stay.
    pub(super) stopping: bool,
    pub(super) ready: bool,
    /// The node that it was given to.
    pub(super) node: Option<String>,
    /// The longest life that its sandbox holds, in seconds.
    pub(super) deadline: Option<u64>,
    /// How it ended, once it has.
    pub(super) end: Option<End>,
}

/// How a Pod ended, as the node agent recorded it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) succeeded: bool,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) exit_code: Option<i32>,
}

impl PodView {
    pub(super) fn of(pod: &Pod, session_uid: Option<&str>) -> Self {
        let owners = pod.metadata.owner_references.iter().flatten();
        Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            ours: owners.into_iter().any(|owner| Some(owner.uid.as_str()) == session_uid),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            held: pod.metadata.finalizers.iter().flatten().any(|name| name == names::SESSION_FINALIZER),
            stopping: pod
                .metadata
                .annotations
                .iter()
                .flatten()
                .any(|(key, value)| key == names::STOP && value == "true"),
            ready: condition_is_true(pod, "Ready"),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()),
            deadline: pod.spec.as_ref().and_then(|spec| u64::try_from(spec.active_deadline_seconds?).ok()),
            end: end_of(pod),
        }
    }
}

fn condition_is_true(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn end_of(pod: &Pod) -> Option<End> {
    let status = pod.status.as_ref()?;
    let succeeded = match status.phase.as_deref()? {
        "Succeeded" => true,
        "Failed" => false,
        _ => return None,
    };
    let container = status.container_statuses.iter().flatten().next();
    let terminated = container.and_then(|container| container.state.as_ref()?.terminated.as_ref());
    let reason = status.reason.clone().or_else(|| terminated?.reason.clone());
    let message = status.message.clone().or_else(|| terminated?.message.clone());
    Some(End {
        succeeded,
        reason: reason.unwrap_or_else(|| if succeeded { "Completed" } else { "Error" }.to_owned()),
        message: message.unwrap_or_default(),
        exit_code: terminated.map(|terminated| terminated.exit_code),
    })
}

/// Reads what the session's phase asks for.
pub(super) async fn observe(objects: &Objects, clock: &Clock, session: &Session) -> Result<Observed, Failure> {
    let status = session.status.clone().unwrap_or_default();
    let name = session.metadata.name.as_deref().unwrap_or_default();
    let run = super::status::run_of(session);
    let mut observed = Observed::default();
    if session.metadata.deletion_timestamp.is_some() {
        observed.others = pods_of(objects, session).await?;
        return Ok(observed);
    }
    if status.phase.is_terminal() {
        return Ok(observed);
    }
    let found = objects.get::<Pod>(&beside(session, names::pod_name(name, run))).await?;
    observed.pod = found.map(|pod| PodView::of(&pod, session.metadata.uid.as_deref()));
    match (status.phase, &observed.pod) {
        (Phase::Pending, None) => prepare(objects, session, observed).await,
        (Phase::Creating | Phase::Running, Some(pod)) if pod.end.is_none() => {
            observed.heartbeat = heartbeat(objects, session).await?;
            observed.project = project(objects, session).await?;
            observed.timeline = clock.timeline();
            Ok(observed)
        }
        _ => Ok(observed),
    }
}

/// Reads everything that a Pod is made of. What is definitely not there is told apart from what cannot be read now.
async fn prepare(objects: &Objects, session: &Session, mut observed: Observed) -> Result<Observed, Failure> {
    observed.heartbeat = heartbeat(objects, session).await?;
    if session.status.as_ref().is_some_and(|status| status.attempts > 0) {
        observed.others = pods_of(objects, session).await?;
    }
    observed.project = project(objects, session).await?;
    if let Some(name) = &session.spec.agent {
        observed.agent = objects.get::<Agent>(&beside(session, name)).await?;
        if observed.agent.is_none() {
            observed.missing = Some(missing::<Agent>("AgentNotFound", name));
            return Ok(observed);
        }
    }
    for grant in pod::grants(session, observed.agent.as_ref()) {
        if objects.get_as::<Credential, IgnoredAny>(&beside(session, &grant.name)).await?.is_none() {
            observed.missing = Some(missing::<Credential>("CredentialNotFound", &grant.name));
            return Ok(observed);
        }
    }
    if let Some(name) = &session.spec.workspace.files
        && objects.get_as::<ConfigMap, IgnoredAny>(&beside(session, name)).await?.is_none()
    {
        observed.missing = Some(missing::<ConfigMap>("ConfigMapNotFound", name));
    }
    observed.prepared = true;
    Ok(observed)
}

fn missing<K: Resource<DynamicType = ()>>(reason: &'static str, name: &str) -> Missing {
    Missing { reason, message: format!("{} {name:?} does not exist in this namespace", K::kind(&())) }
}

async fn project(objects: &Objects, session: &Session) -> Result<Option<Project>, Failure> {
    let name = session.metadata.namespace.clone().unwrap_or_default();
    objects.get::<Project>(&Key { namespace: None, name }).await
}

async fn heartbeat(objects: &Objects, session: &Session) -> Result<Heartbeat, Failure> {
    let place = Session::url_path(&(), session.metadata.namespace.as_deref());
    let name = session.metadata.name.as_deref().unwrap_or_default();
    objects.read(&format!("{place}/{name}/heartbeat"), "read the session's heartbeat").await
}

async fn pods_of(objects: &Objects, session: &Session) -> Result<Vec<PodView>, Failure> {
    let name = session.metadata.name.as_deref().unwrap_or_default();
    let label = format!("{}={name}", names::SESSION);
    let pods = objects.list::<Pod>(session.metadata.namespace.as_deref(), Some(&label)).await?;
    let views = pods.iter().map(|pod| PodView::of(pod, session.metadata.uid.as_deref()));
    Ok(views.filter(|pod| pod.ours).collect())
}
