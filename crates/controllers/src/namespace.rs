//! Gives each namespace its default service account, and empties a namespace that is being deleted.
//!
//! Observed: what is in the namespace, kind by kind.
//!
//! Invariants:
//! - Sessions go first and are waited for, then Pods, then operations, then all the rest: nothing that a running sandbox
//!   or an undoing needs is taken from under it.
//! - The namespace is let go only after a look at every kind showed nothing. The store takes nothing new into a
//!   namespace that is being deleted, so that look is final.
//! - An object is deleted under the uid that was seen.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use mainstay_api::session::Session;
use mainstay_api::{Kind, Registry};
use mainstay_runtime::{Failure, Timestamp};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::driver::{Driver, Key, Targets, namespace_of};
use crate::kinds;
use crate::objects::Objects;
use crate::reconcile::{Effect, FencingToken, Next, Plan, Reconciler};

/// In `spec.finalizers` until the namespace is empty.
const FINALIZER: &str = "kubernetes";
/// The service account that every namespace has.
const DEFAULT_ACCOUNT: &str = "default";
/// Kinds that go first, one after the other. Operations are cancelled, and undo what they did while all else is there.
const FIRST: [&str; 3] = ["sessions", "pods", "operations"];
/// Objects of one kind that one pass looks at.
const MOST: usize = 1_000;
/// Deletions under way at once.
const AT_ONCE: usize = 32;
/// What is held by a finalizer of some other party is looked at again this often.
const RECHECK: Duration = Duration::from_secs(1);

/// The reconciler of namespaces.
#[derive(Debug)]
pub struct NamespaceReconciler {
    objects: Objects,
    /// All kinds that live in namespaces, in the order in which they go.
    kinds: Vec<Arc<Kind>>,
}

/// What is in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    has_account: bool,
    left: Vec<Left>,
}

/// Something that is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    collection: String,
    name: String,
    uid: Option<String>,
    deleting: bool,
}

/// One effect on a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make its default service account.
    CreateAccount,
    /// Delete these.
    Delete(Vec<Left>),
    /// Let it go.
    Finalize,
}

/// A driver of namespaces, ready to start.
pub fn driver(client: Client, registry: &Registry) -> Driver<NamespaceReconciler> {
    let mut kinds: Vec<_> = registry.iter().filter(|kind| kind.namespaced).cloned().collect();
    kinds.sort_by_key(|kind| FIRST.iter().position(|first| *first == kind.plural).unwrap_or(FIRST.len()));
    let reconciler = NamespaceReconciler { objects: Objects::new(client.clone()), kinds };
    Driver::new(reconciler, client)
        .related::<ServiceAccount>(default_account)
        .related::<Session>(going)
        .related::<Pod>(going)
}

/// A default service account concerns its namespace: it is made again when somebody deletes it.
fn default_account(meta: &ObjectMeta) -> Targets {
    if meta.name.as_deref() == Some(DEFAULT_ACCOUNT) { namespace_of(meta) } else { Targets::None }
}

/// What goes away may be what its namespace waits for.
fn going(meta: &ObjectMeta) -> Targets {
    if meta.deletion_timestamp.is_some() { namespace_of(meta) } else { Targets::None }
}

impl Reconciler for NamespaceReconciler {
    type Object = Namespace;
    type Observed = Observed;
    type Action = Action;
    const NAME: &'static str = "namespace";
    const REPORTS: bool = false;

    async fn observe(&self, namespace: &Namespace) -> Result<Observed, Failure> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_some() {
            return Ok(Observed { has_account: true, left: self.left(&name).await? });
        }
        let key = Key { namespace: Some(name), name: DEFAULT_ACCOUNT.to_owned() };
        let account = self.objects.get_as::<ServiceAccount, IgnoredAny>(&key).await?;
        Ok(Observed { has_account: account.is_some(), left: Vec::new() })
    }

    fn plan(namespace: &Namespace, observed: &Observed, _: Timestamp) -> Plan<Action> {
        if namespace.metadata.deletion_timestamp.is_none() {
            let missing = (!observed.has_account).then_some(Action::CreateAccount);
            return Plan::act(Vec::from_iter(missing), Next::AwaitChange);
        }
        let untold: Vec<Left> = observed.left.iter().filter(|left| !left.deleting).cloned().collect();
        if !untold.is_empty() {
            // Most objects go at once: look again at once.
            return Plan::act([Action::Delete(untold)], Next::After(Duration::ZERO));
        }
        if !observed.left.is_empty() {
            return Plan::settled(Next::After(RECHECK));
        }
        let held =
            namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()).any(|name| name == FINALIZER);
        let release = held.then_some(Action::Finalize);
        Plan::act(Vec::from_iter(release), Next::AwaitChange)
    }

    async fn apply(&self, namespace: &Namespace, action: Action, _: FencingToken) -> Result<Effect, Failure> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        match action {
            Action::CreateAccount => {
                let key = Key { namespace: Some(name), name: DEFAULT_ACCOUNT.to_owned() };
                let body =
                    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": DEFAULT_ACCOUNT } });
                let made = self.objects.create::<ServiceAccount>(&key, &body).await?;
                Ok(made.map_or(Effect::NONE, |account| Effect::wrote(&account.metadata)))
            }
            Action::Delete(all) => self.delete(all).await,
            Action::Finalize => {
                let finalizers: Vec<&String> = namespace
                    .spec
                    .iter()
                    .flat_map(|spec| spec.finalizers.iter().flatten())
                    .filter(|name| *name != FINALIZER)
                    .collect();
                let body = json!({
                    "metadata": { "resourceVersion": namespace.metadata.resource_version },
                    "spec": { "finalizers": finalizers },
                });
                self.objects.merge_part::<Namespace>("finalize", &Key { namespace: None, name }, &body).await
            }
        }
    }
}

impl NamespaceReconciler {
    /// What is left of the first kind that must go, or of all the rest together.
    async fn left(&self, namespace: &str) -> Result<Vec<Left>, Failure> {
        let mut all = Vec::new();
        for kind in &self.kinds {
            let collection = kinds::collection(kind, Some(namespace));
            let heads = self.objects.heads(&collection, MOST).await?;
            all.extend(heads.into_iter().map(|meta| Left {
                collection: collection.clone(),
                name: meta.name.unwrap_or_default(),
                uid: meta.uid,
                deleting: meta.deletion_timestamp.is_some(),
            }));
            if !all.is_empty() && (FIRST.contains(&kind.plural) || all.len() >= MOST) {
                return Ok(all);
            }
        }
        Ok(all)
    }

    /// Deletes all of them; the first failure is told after the others were tried.
    async fn delete(&self, all: Vec<Left>) -> Result<Effect, Failure> {
        let deletions = all
            .into_iter()
            .map(|left| async move { self.objects.delete_at(&left.collection, &left.name, left.uid.as_deref()).await });
        let results: Vec<_> = futures::stream::iter(deletions).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().find(Result::is_err).unwrap_or(Ok(Effect::NONE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(deleting: bool) -> Namespace {
        let mut namespace: Namespace =
            serde_json::from_value(json!({ "metadata": { "name": "demo" }, "spec": { "finalizers": ["kubernetes"] } }))
                .unwrap();
        if deleting {
            namespace.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        }
        namespace
    }

    fn left(deleting: bool) -> Left {
        Left { collection: "/api/v1/namespaces/demo/pods".to_owned(), name: "a".to_owned(), uid: None, deleting }
    }

    #[test]
    fn plans() {
        let now = Timestamp::UNIX_EPOCH;
        let at_once = Next::After(Duration::ZERO);
        for (name, deleting, observed, plan) in [
            ("a new one", false, Observed::default(), Plan::act([Action::CreateAccount], Next::AwaitChange)),
            ("one in use", false, Observed { has_account: true, left: Vec::new() }, Plan::settled(Next::AwaitChange)),
            (
                "one to empty",
                true,
                Observed { has_account: true, left: vec![left(false), left(true)] },
                Plan::act([Action::Delete(vec![left(false)])], at_once),
            ),
            (
                "one that waits",
                true,
                Observed { has_account: true, left: vec![left(true)] },
                Plan::settled(Next::After(RECHECK)),
            ),
            (
                "one that is empty",
                true,
                Observed { has_account: true, left: Vec::new() },
                Plan::act([Action::Finalize], Next::AwaitChange),
            ),
        ] {
            assert_eq!(NamespaceReconciler::plan(&namespace(deleting), &observed, now), plan, "{name}");
        }
    }
}
