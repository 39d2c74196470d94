//! Reconciles a [`Project`] with the namespace of its name, its members' bindings and its quota.
//!
//! Invariants:
//! - A namespace that is not this project's is never adopted, changed or deleted.
//! - A member who is removed loses the binding; a role that changed is a new binding, never a changed one (R51). That
//!   holds whatever an owner did to the binding's metadata: its name alone says that it is the project's.
//! - Deletion is an operation ([`teardown`]): sessions, and their Pods with them, then the namespace with the rest. Only
//!   then goes the finalizer. A teardown that dies blocks the project, and says so.

mod desired;
pub mod teardown;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::Client;
use mainstay_api::names;
use mainstay_api::operation::{Operation, OperationPhase, OperationRef};
use mainstay_api::project::{Project, ProjectPhase};
use mainstay_runtime::{Class, Failure, Timestamp};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::driver::{Driver, Key, Targets, cluster_controller_of, namespace_of};
use crate::objects::{Objects, merge_condition};
use crate::operation;
use crate::reconcile::{Effect, FencingToken, Next, Plan, Reconciler};
use desired::Desired;

/// The operations that tear projects down.
const TEARDOWNS: &str = "spec.handler=project-teardown";
/// How soon a world that should be gone is looked at again.
const RECHECK: Duration = Duration::from_secs(1);
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
    /// Its teardown, as ordered for its present generation; read only when it is being deleted.
    teardown: Option<Operation>,
    /// Teardowns of earlier generations whose ends it has not noted.
    earlier: Vec<Operation>,
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
    /// Order the teardown.
    Order(Box<Operation>),
    /// Delete an operation that has ended, and whose end was noted.
    Forget(OperationRef),
    /// Write this status.
    WriteStatus(Box<Said>),
    /// Let the project go.
    RemoveFinalizer,
}

/// What a project's status is to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    phase: ProjectPhase,
    conditions: Vec<Condition>,
    operations: Vec<OperationRef>,
}

/// A driver of projects, ready to start.
pub fn driver(client: Client) -> Driver<ProjectReconciler> {
    Driver::new(ProjectReconciler { objects: Objects::new(client.clone()) }, client)
        .related::<Namespace>(|meta| Targets::Key(Key::of(meta)))
        .related::<RoleBinding>(namespace_of)
        .related::<ResourceQuota>(|meta| cluster_controller_of(meta, "Project"))
        .related_where::<Operation>(TEARDOWNS, |meta| cluster_controller_of(meta, "Project"))
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
        let mut observed = Observed::default();
        if project.metadata.deletion_timestamp.is_some() {
            // Before the namespace: what it says it has deleted is gone by then.
            let key = inside(operation::SYSTEM_NAMESPACE, operation::name_of(&project.metadata, teardown::STEP));
            observed.teardown = self.objects.get::<Operation>(&key).await?;
            let refs = project.status.as_ref().map_or(&[][..], |status| &status.operations);
            for key in operation::open_of(&project.metadata, refs, &key.name) {
                observed.earlier.extend(self.objects.get::<Operation>(&key).await?);
            }
        }
        observed.namespace = self.objects.get::<Namespace>(&Key { namespace: None, name: name.to_owned() }).await?;
        let ours = observed.namespace.as_ref().is_some_and(|namespace| is_of(project, &namespace.metadata));
        if !ours || project.metadata.deletion_timestamp.is_some() {
            return Ok(observed);
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
            Action::Order(operation) => {
                self.create::<Operation>(&Key::of(&operation.metadata), &json!(operation)).await
            }
            Action::Forget(noted) => {
                let key = operation::key_of(&project.metadata, &noted);
                self.objects.delete::<Operation>(&key, Some(&noted.uid)).await
            }
            Action::WriteStatus(said) => {
                self.objects.merge_status::<Project>(&itself, &status_patch(project, *said)).await
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
    let ours = observed.namespace.as_ref().filter(|namespace| is_of(project, &namespace.metadata));
    match (ours, &observed.teardown) {
        (Some(namespace), None) => {
            let order = teardown::order(project, namespace).of(project);
            let said = torn(project, observed, now).into_iter();
            Plan::act(said.chain([Action::Order(Box::new(order))]).collect::<Vec<_>>(), Next::AwaitChange)
        }
        (left, Some(teardown)) if left.is_some() || !operation::phase(teardown).is_final() => {
            let said = torn(project, observed, now);
            let recheck = operation::phase(teardown) == OperationPhase::Succeeded;
            // Somebody made it anew, or it is only just seen to be gone.
            let next = if recheck { Next::After(RECHECK) } else { Next::AwaitChange };
            Plan::act(said, next)
        }
        (_, teardown) => {
            let said = teardown.as_ref().map_or_else(Vec::new, |_| torn(project, observed, now));
            let held = project.metadata.finalizers.iter().flatten().any(|name| name == names::PROJECT_FINALIZER);
            // What is written first changes the version that the finalizer is taken off.
            if said.is_empty() {
                Plan::act(Vec::from_iter(held.then_some(Action::RemoveFinalizer)), Next::AwaitChange)
            } else {
                Plan::act(said, Next::After(Duration::ZERO))
            }
        }
    }
}

/// What notes how its teardown goes; nothing when that is noted.
fn torn(project: &Project, observed: &Observed, now: Timestamp) -> Vec<Action> {
    let old = project.status.clone().unwrap_or_default();
    let teardown = observed.teardown.as_ref();
    let blocked =
        teardown.and_then(|teardown| operation::blocked(&old.conditions, teardown, project.metadata.generation, now));
    let message = blocked.as_ref().map_or_else(String::new, |condition| condition.message.clone());
    let ready = ready(project, ProjectPhase::Terminating, "Terminating", &message, now);
    let kept = operation::kept(&old.operations, observed.earlier.iter().chain(teardown));
    let conditions: Vec<Condition> = [Some(ready), blocked].into_iter().flatten().collect();
    let said = written(project, Said { phase: ProjectPhase::Terminating, conditions, operations: kept.refs });
    kept.outgrown.into_iter().map(Action::Forget).chain(said).collect()
}

/// The write that makes the status say this; `None` when it does.
fn status(project: &Project, phase: ProjectPhase, reason: &str, message: &str, now: Timestamp) -> Option<Action> {
    let operations = project.status.clone().unwrap_or_default().operations;
    let conditions = vec![ready(project, phase, reason, message, now)];
    written(project, Said { phase, conditions, operations })
}

fn ready(project: &Project, phase: ProjectPhase, reason: &str, message: &str, now: Timestamp) -> Condition {
    let status = if phase == ProjectPhase::Active { "True" } else { "False" };
    Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(now),
        observed_generation: project.metadata.generation,
    }
}

fn written(project: &Project, said: Said) -> Option<Action> {
    let old = project.status.clone().unwrap_or_default();
    let told = said.conditions.iter().all(|new| {
        old.conditions.iter().any(|old| {
            (&old.type_, &old.status, &old.reason, &old.message) == (&new.type_, &new.status, &new.reason, &new.message)
        })
    });
    let same = old.phase == said.phase && old.observed_generation == project.metadata.generation;
    if told && same && old.operations == said.operations { None } else { Some(Action::WriteStatus(Box::new(said))) }
}

fn status_patch(project: &Project, said: Said) -> Value {
    let mut conditions = project.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    for condition in said.conditions {
        merge_condition(&mut conditions, condition);
    }
    json!({
        "metadata": { "resourceVersion": project.metadata.resource_version },
        "status": {
            "phase": said.phase, "observedGeneration": project.metadata.generation, "conditions": conditions,
            "operations": said.operations,
        },
    })
}

#[cfg(test)]
mod tests;
