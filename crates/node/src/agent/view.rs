//! A Pod object, as the node agent reads it.

use k8s_openapi::api::core::v1::Pod;
use mainstay_api::names;

use crate::launch::{Adaptor, PodRef, SessionRef};

/// A Pod and what its metadata says to the node agent.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Which Pod.
    pub(crate) pod: PodRef,
    /// The run of a session that it realises; `None` for a Pod made by hand.
    pub(crate) session: Option<SessionRef>,
    /// The framing between supervisor and agent process.
    pub(crate) adaptor: Adaptor,
    /// Its workspace outlives it.
    pub(crate) keep: bool,
    /// It is being deleted.
    pub(crate) deleting: bool,
    /// It is to be stopped, to go or to stay, with this grace period in seconds.
    pub(crate) stop: Option<u64>,
    /// Our finalizer is on it.
    pub(crate) claimed: bool,
    /// The latest order to renew its token.
    pub(crate) renewal: Option<String>,
    /// Its version.
    pub(crate) version: String,
    /// The whole object.
    pub(crate) object: Pod,
}

impl View {
    /// Reads a Pod; `None` when it has no uid, name or namespace, which no API returns.
    pub(crate) fn new(object: Pod) -> Option<Self> {
        let meta = &object.metadata;
        let pod = PodRef { namespace: meta.namespace.clone()?, name: meta.name.clone()?, uid: meta.uid.clone()? };
        let note = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
        let is_set = |key: &str| note(key) == Some("true");
        let grace = |spec: &k8s_openapi::api::core::v1::PodSpec| spec.termination_grace_period_seconds;
        let grace = meta.deletion_grace_period_seconds.or_else(|| object.spec.as_ref().and_then(grace)).unwrap_or(10);
        let deleting = meta.deletion_timestamp.is_some();
        let name = meta.labels.as_ref().and_then(|labels| labels.get(names::SESSION));
        let session = match (name, note(names::SESSION_UID), note(names::RUN).and_then(|run| run.parse().ok())) {
            (Some(name), Some(uid), Some(run)) => Some(SessionRef {
                name: name.clone(),
                uid: uid.to_owned(),
                run,
                stop_on_finish: is_set(names::STOP_ON_FINISH),
            }),
            _ => None,
        };
        Some(Self {
            pod,
            session,
            adaptor: if note(names::ADAPTOR) == Some("stream-json") { Adaptor::StreamJson } else { Adaptor::Exec },
            keep: is_set(names::KEEP_WORKSPACE),
            deleting,
            stop: (deleting || is_set(names::STOP)).then_some(grace.unsigned_abs()),
            claimed: meta.finalizers.iter().flatten().any(|held| held == names::NODE_FINALIZER),
            renewal: note(names::TOKEN_RENEWAL).map(str::to_owned),
            version: meta.resource_version.clone().unwrap_or_default(),
            object,
        })
    }

    /// `status.phase`.
    pub(crate) fn phase(&self) -> &str {
        self.object.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
    }

    /// Its end is reported.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    /// A condition's status.
    pub(crate) fn condition(&self, kind: &str) -> Option<&str> {
        let conditions = self.object.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.as_str())
    }

    /// The key of its workspace.
    pub(crate) fn workspace_key(&self) -> &str {
        match &self.session {
            Some(session) if self.keep => &session.uid,
            _ => &self.pod.uid,
        }
    }

    /// Whether this is no newer than `other`, as far as versions can be compared.
    pub(crate) fn is_no_newer_than(&self, other: &Self) -> bool {
        match (self.version.parse::<u64>(), other.version.parse::<u64>()) {
            (Ok(mine), Ok(its)) => mine <= its,
            _ => false,
        }
    }
}
