//! Reconciles a [`Project`] with the namespace of its name, its members' bindings and its quota.
//!
//! Invariants:
//! - A namespace that is not this project's is never adopted, changed or deleted.
//! - A member who is removed loses the binding; a role that changed is a new binding, never a changed one (R51). That
//!   holds whatever an owner did to the binding's metadata: its name alone says that it is the project's.
//! - Deletion goes in order: sessions, and their Pods with them, then the namespace with the rest, then the finalizer.
//!   Nothing outside the project's own namespace is touched (R4, R39).

mod desired;

use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::{Client, Resource};
use mainstay_api::names;
use mainstay_api::project::{Project, ProjectPhase};
use mainstay_api::session::Session;
use mainstay_runtime::{Class, Failure, Timestamp};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::driver::{Driver, Key, Targets, cluster_controller_of, namespace_of};
use crate::objects::{Objects, merge_condition};
use crate::reconcile::{Effect, FencingToken, Next, Plan, Reconciler};
use desired::Desired;

/// The service account that every project's namespace has.
const DEFAULT_ACCOUNT: &str = "default";

/// The reconciler of projects.
#[derive(Debug)]
pub struct ProjectReconciler {
    objects: Objects,
}

/// A project's world.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    namespace: Option<Namespace>,
    has_account: bool,
    /// All of the namespace, whoever made them.
    bindings: Vec<RoleBinding>,
    quota: Option<ResourceQuota>,
    /// Sessions that are left; read only when the project is being deleted.
    sessions: Vec<ObjectMeta>,
}

/// One effect on a project's world.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make its namespace.
    CreateNamespace,
    /// Make the namespace's default service account.
    CreateAccount,
    /// Bind a member to a role.
    Bind(Box<RoleBinding>),
    /// Make a binding say again whose it is.
    Mark(Box<RoleBinding>),
    /// Take a binding away, whatever holds it.
    Unbind(Box<RoleBinding>),
    /// Make the quota, or make it this.
    SetQuota(Value, bool),
    /// Take the quota away.
    DropQuota,
    /// Delete a session (name, uid).
    DeleteSession(String, String),
    /// Delete the namespace of this uid.
    DeleteNamespace(String),
    /// Write this phase and condition.
    WriteStatus(ProjectPhase, Box<Condition>),
    /// Let the project go.
    RemoveFinalizer,
}

/// A driver of projects, ready to start.
pub fn driver(client: Client) -> Driver<ProjectReconciler> {
    Driver::new(ProjectReconciler { objects: Objects::new(client.clone()) }, client)
        .related::<Namespace>(|meta| Targets::Key(Key::of(meta)))
        .related::<RoleBinding>(namespace_of)
        .related::<ResourceQuota>(|meta| cluster_controller_of(meta, "Project"))
        .related::<Session>(|meta| if meta.deletion_timestamp.is_some() { namespace_of(meta) } else { Targets::None })
}

/// Whether this project made the object.
fn is_of(project: &Project, meta: &ObjectMeta) -> bool {
    let uid = project.metadata.uid.as_deref().unwrap_or_default();
    meta.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

impl Reconciler for ProjectReconciler {
    type Object = Project;
    type Observed = Observed;
    type Action = Action;
    const NAME: &'static str = "project";

    async fn observe(&self, project: &Project) -> Result<Observed, Failure> {
        let name = project.metadata.name.as_deref().unwrap_or_default();
        let namespace = self.objects.get::<Namespace>(&Key { namespace: None, name: name.to_owned() }).await?;
        let mut observed = Observed { namespace, ..Observed::default() };
        if !observed.namespace.as_ref().is_some_and(|namespace| is_of(project, &namespace.metadata)) {
            return Ok(observed);
        }
        if project.metadata.deletion_timestamp.is_some() {
            let sessions = self.objects.heads(&Session::url_path(&(), Some(name)), usize::MAX).await?;
            return Ok(Observed { sessions, ..observed });
        }
        let account = inside(name, DEFAULT_ACCOUNT);
        observed.has_account = self.objects.get_as::<ServiceAccount, IgnoredAny>(&account).await?.is_some();
        observed.bindings = self.objects.list::<RoleBinding>(Some(name), None).await?;
        observed.quota = self.objects.get::<ResourceQuota>(&inside(name, desired::QUOTA)).await?;
        Ok(observed)
    }

    fn plan(project: &Project, observed: &Observed, now: Timestamp) -> Plan<Action> {
        if project.metadata.deletion_timestamp.is_some() {
            going(project, observed, now)
        } else {
            live(project, observed, now)
        }
    }

    async fn apply(&self, project: &Project, action: Action, _: FencingToken) -> Result<Effect, Failure> {
        let name = project.metadata.name.as_deref().unwrap_or_default();
        let itself = Key { namespace: None, name: name.to_owned() };
        match action {
            // When somebody was faster, nothing may be put into it before it is known whose it is.
            Action::CreateNamespace => self.create_new::<Namespace>(&itself, &Desired::of(project).namespace()).await,
            Action::CreateAccount => {
                let body =
                    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": DEFAULT_ACCOUNT } });
                self.create::<ServiceAccount>(&inside(name, DEFAULT_ACCOUNT), &body).await
            }
            Action::Bind(binding) => {
                let key = inside(name, binding.metadata.name.clone().unwrap_or_default());
                self.create_new::<RoleBinding>(&key, &json!(binding)).await
            }
            Action::Mark(binding) => self.mark(&binding.metadata).await,
            Action::Unbind(binding) => self.unbind(&binding).await,
            Action::SetQuota(body, true) => {
                self.create_new::<ResourceQuota>(&inside(name, desired::QUOTA), &body).await
            }
            Action::SetQuota(body, false) => {
                self.objects
                    .merge::<ResourceQuota>(&inside(name, desired::QUOTA), &json!({ "spec": body["spec"] }))
                    .await
            }
            Action::DropQuota => self.objects.delete::<ResourceQuota>(&inside(name, desired::QUOTA), None).await,
            Action::DeleteSession(session, uid) => {
                self.objects.delete::<Session>(&inside(name, session), Some(&uid)).await
            }
            Action::DeleteNamespace(uid) => self.objects.delete::<Namespace>(&itself, Some(&uid)).await,
            Action::WriteStatus(phase, condition) => {
                self.objects.merge_status::<Project>(&itself, &status_patch(project, phase, *condition)).await
            }
            Action::RemoveFinalizer => self.objects.remove_finalizer(project, names::PROJECT_FINALIZER).await,
        }
    }

    fn conditions(project: &Project) -> &[Condition] {
        project.status.as_ref().map_or(&[], |status| &status.conditions)
    }
}

impl ProjectReconciler {
    /// Makes an object; one that is there already was made by an earlier attempt, or is judged by the next.
    async fn create<K: crate::objects::Known>(&self, key: &Key, body: &Value) -> Result<Effect, Failure> {
        Ok(self.objects.create::<K>(key, body).await?.map_or(Effect::NONE, |object| Effect::wrote(object.meta())))
    }

    /// Makes an object that was not there; one that is there now may be any, and is judged by a new look.
    async fn create_new<K: crate::objects::Known>(&self, key: &Key, body: &Value) -> Result<Effect, Failure> {
        let made = self.objects.create::<K>(key, body).await?;
        let taken = || Failure::new(Class::Conflict, format!("create {} {key}: there is one already", K::kind(&())));
        made.map(|object| Effect::wrote(object.meta())).ok_or_else(taken)
    }

    /// Writes labels and owners, on the version that was read.
    async fn mark(&self, meta: &ObjectMeta) -> Result<Effect, Failure> {
        let body = json!({ "metadata": {
            "resourceVersion": meta.resource_version, "labels": meta.labels, "ownerReferences": meta.owner_references,
        } });
        self.objects.merge::<RoleBinding>(&Key::of(meta), &body).await
    }

    /// A binding that waits for a finalizer goes on granting, so none may hold it.
    async fn unbind(&self, binding: &RoleBinding) -> Result<Effect, Failure> {
        let meta = &binding.metadata;
        let mut versions = Vec::new();
        if meta.finalizers.as_ref().is_some_and(|held| !held.is_empty()) {
            versions = self.objects.remove_finalizers(binding).await?.versions;
        }
        let mut effect = self.objects.delete::<RoleBinding>(&Key::of(meta), meta.uid.as_deref()).await?;
        effect.versions.extend(versions);
        Ok(effect)
    }
}

fn inside(namespace: &str, name: impl Into<String>) -> Key {
    Key { namespace: Some(namespace.to_owned()), name: name.into() }
}

fn live(project: &Project, observed: &Observed, now: Timestamp) -> Plan<Action> {
    let desired = Desired::of(project);
    let mut actions = Vec::new();
    match &observed.namespace {
        None => actions.push(Action::CreateNamespace),
        Some(namespace) if !is_of(project, &namespace.metadata) => {
            let message = format!("namespace {:?} exists and is not this project's", desired.name());
            let change = status(project, ProjectPhase::Pending, "NamespaceTaken", &message, now);
            return Plan::act(Vec::from_iter(change), Next::AwaitChange);
        }
        Some(namespace) if namespace.metadata.deletion_timestamp.is_some() => {
            let message = "its namespace is being deleted and will be made anew when it is gone";
            let change = status(project, ProjectPhase::Pending, "NamespaceTerminating", message, now);
            return Plan::act(Vec::from_iter(change), Next::AwaitChange);
        }
        Some(_) => {}
    }
    if !observed.has_account {
        actions.push(Action::CreateAccount);
    }
    actions.extend(desired.bindings(&observed.bindings));
    actions.extend(desired.quota(observed.quota.as_ref()));
    actions.extend(status(project, ProjectPhase::Active, "Active", "", now));
    Plan::act(actions, Next::AwaitChange)
}

fn going(project: &Project, observed: &Observed, now: Timestamp) -> Plan<Action> {
    let Some(namespace) = observed.namespace.as_ref().filter(|namespace| is_of(project, &namespace.metadata)) else {
        let held = project.metadata.finalizers.iter().flatten().any(|name| name == names::PROJECT_FINALIZER);
        let release = held.then_some(Action::RemoveFinalizer);
        return Plan::act(Vec::from_iter(release), Next::AwaitChange);
    };
    let mut actions = Vec::from_iter(status(project, ProjectPhase::Terminating, "Terminating", "", now));
    let identity = |meta: &ObjectMeta| (meta.name.clone().unwrap_or_default(), meta.uid.clone().unwrap_or_default());
    for session in observed.sessions.iter().filter(|session| session.deletion_timestamp.is_none()) {
        let (name, uid) = identity(session);
        actions.push(Action::DeleteSession(name, uid));
    }
    if observed.sessions.is_empty() && namespace.metadata.deletion_timestamp.is_none() {
        actions.push(Action::DeleteNamespace(identity(&namespace.metadata).1));
    }
    Plan::act(actions, Next::AwaitChange)
}

/// The write that makes the status say this; `None` when it does.
fn status(project: &Project, phase: ProjectPhase, reason: &str, message: &str, now: Timestamp) -> Option<Action> {
    let old = project.status.clone().unwrap_or_default();
    let generation = project.metadata.generation;
    let ready = if phase == ProjectPhase::Active { "True" } else { "False" };
    let said = old.conditions.iter().any(|condition| {
        (condition.type_.as_str(), condition.status.as_str()) == ("Ready", ready)
            && condition.reason == reason
            && condition.message == message
    });
    if said && old.phase == phase && old.observed_generation == generation {
        return None;
    }
    let condition = Condition {
        type_: "Ready".to_owned(),
        status: ready.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(now),
        observed_generation: generation,
    };
    Some(Action::WriteStatus(phase, Box::new(condition)))
}

fn status_patch(project: &Project, phase: ProjectPhase, condition: Condition) -> Value {
    let mut conditions = project.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    merge_condition(&mut conditions, condition);
    json!({
        "metadata": { "resourceVersion": project.metadata.resource_version },
        "status": { "phase": phase, "observedGeneration": project.metadata.generation, "conditions": conditions },
    })
}

#[cfg(test)]
mod tests;
