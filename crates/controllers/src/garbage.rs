//! Deletes what nobody owns any more, for every kind of the registry but operations.
//!
//! *Flow.* A watch per kind feeds the graph of owners; the graph says whom to look at; each such object is a key of the
//! same queue that drives all controllers.
//!
//! *Guarantees.* Nothing is deleted because of what a watch showed or did not show: the object and each of its owners
//! are read anew, owners by uid, and the deletion carries the uid and version that were judged. An owner whose kind is
//! not known, or which an object without a namespace could not have, keeps its dependents. Nothing is looked at before
//! every kind was listed once.

mod graph;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, DynamicObject, Request};
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use mainstay_api::{Kind, Registry};
use mainstay_runtime::fault::{Point, again, hit};
use mainstay_runtime::{Class, Classify, Doing, Failure, KeyBackoff, Reason, bounded_client};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::driver::{self, Done, Ended, Head, Key, Metrics, Outcome, Shared, Surroundings, Wake, outcome_of};
use crate::kinds;
use crate::objects::Objects;
use crate::reconcile::Effect;
use graph::{FOREGROUND, Graph, Node, ORPHAN, Uid};

/// The collector's name in logs and metrics.
pub const NAME: &str = "garbage";
/// Objects looked at at once.
const CONCURRENCY: usize = 32;

/// The garbage collector, ready to start.
pub struct Collector {
    client: Client,
    kinds: Vec<Arc<Kind>>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("kinds", &self.kinds.len()).finish_non_exhaustive()
    }
}

/// What attempts share.
struct Collect {
    objects: Objects,
    kinds: Vec<Arc<Kind>>,
    graph: Mutex<Graph>,
    metrics: Arc<Metrics>,
}

/// An owner, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// It is there, or it cannot be told that it is not.
    Solid,
    /// It is gone.
    Gone,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

impl Collector {
    /// A collector of every kind that is registered, which counts there.
    pub fn new(client: Client, registry: &Registry, metrics: Arc<Metrics>) -> Self {
        Self { client, kinds: registry.iter().cloned().collect(), metrics }
    }

    /// Runs until told to stop. An essential task of the process.
    pub fn start(self, surroundings: &Surroundings) {
        let shared = Arc::new(Shared::new(NAME, CONCURRENCY, Arc::clone(&self.metrics)));
        let collect = Arc::new(Collect {
            objects: Objects::new(self.client.clone()),
            kinds: self.kinds.clone(),
            graph: Mutex::default(),
            metrics: Arc::clone(&self.metrics),
        });
        let collected = || self.kinds.iter().enumerate().filter(|(_, kind)| is_collected(kind));
        let (unlisted, all_listed) = watch::channel(collected().map(|(place, _)| place).collect::<BTreeSet<usize>>());
        for (place, kind) in collected() {
            let api = Api::<Head<DynamicObject>>::all_with(bounded_client(self.client.clone()), &resource(kind));
            let told = (NAME, Arc::clone(&self.metrics));
            self.metrics.first_lists.expect();
            let (collect, shared, unlisted) = (Arc::clone(&collect), Arc::clone(&shared), unlisted.clone());
            let sink = move |event| {
                if matches!(event, Event::InitDone) {
                    unlisted.send_if_modified(|unlisted| unlisted.remove(&place));
                }
                for uid in collect.take(place, event) {
                    shared.wake(&uid, Wake::Urgent, None);
                }
            };
            drop(surroundings.tasks.essential("watch", |stop| driver::watch_kind(api, "", told, sink, stop)));
        }
        let around = surroundings.clone();
        let work = move |uid, backoff| Arc::clone(&collect).run(uid, backoff);
        drop(surroundings.tasks.essential("driver", |stop| async move {
            let mut all_listed = all_listed;
            let listed = all_listed.wait_for(BTreeSet::is_empty);
            tokio::select! {
                () = stop.cancelled() => return,
                _ = listed => {}
            }
            driver::run(shared, work, around, stop).await;
        }));
    }
}

/// There may be a million operations, which the graph could not hold; the API server sweeps them itself.
fn is_collected(kind: &Kind) -> bool {
    (kind.group, kind.plural) != (mainstay_api::GROUP, "operations")
}

fn resource(kind: &Kind) -> ApiResource {
    ApiResource {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        api_version: kind.api_version(),
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    }
}

impl Collect {
    fn with_graph<T>(&self, work: impl FnOnce(&mut Graph) -> T) -> T {
        work(&mut self.graph.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in what a watch showed; returns whom to look at.
    fn take(&self, kind: usize, event: Event<Head<DynamicObject>>) -> Vec<Uid> {
        self.with_graph(|graph| match event {
            Event::Init => {
                self.metrics.lists.increment();
                graph.begin(kind);
                Vec::new()
            }
            Event::InitApply(head) | Event::Apply(head) => graph.upsert(kind, &head.metadata),
            Event::Delete(head) => head.metadata.uid.map(|uid| graph.remove(&uid)).unwrap_or_default(),
            Event::InitDone => graph.end(kind),
        })
    }

    async fn run(self: Arc<Self>, uid: Uid, _: KeyBackoff) -> Ended<Uid> {
        let Some(node) = self.with_graph(|graph| graph.get(&uid).cloned()) else {
            return Ended::With { outcome: Outcome::Gone, done: Done::default() };
        };
        let mut done = Done::default();
        match self.look(&uid, &node, &mut done).await {
            // Whoever is to be looked at again is named by what the watches show then.
            Ok(()) => Ended::With { outcome: Outcome::Gone, done },
            Err(failure) => {
                let (class, error) = (failure.class(), failure.chain());
                self.metrics.failed(class);
                if class != Class::Conflict {
                    tracing::warn!(controller = NAME, key = %node.key, %class, error, "garbage collection failed");
                }
                outcome_of(class).map_or(Ended::Fenced, |outcome| Ended::With { outcome, done })
            }
        }
    }

    /// Looks at one object as it is now, and does what its owners ask for.
    async fn look(&self, uid: &Uid, node: &Node, done: &mut Done<Uid>) -> Result<(), Failure> {
        hit(Point::DriverBeforeObserve).doing("observe")?;
        let Some(meta) = self.read(&self.kinds[node.kind], &node.key).await? else { return Ok(()) };
        if meta.uid.as_ref() != Some(uid) {
            return Ok(());
        }
        if meta.deletion_timestamp.is_some() {
            return self.finish(uid, node, &meta, done).await;
        }
        let references = meta.owner_references.clone().unwrap_or_default();
        if references.is_empty() {
            return Ok(());
        }
        let mut owners = Vec::with_capacity(references.len());
        for reference in &references {
            owners.push(self.owner(&meta, reference).await?);
        }
        hit(Point::DriverBeforeApply).doing("apply")?;
        self.act(uid, node, &meta, &owners).await?;
        while again(Point::DriverAfterApply).doing("apply")? {
            self.act(uid, node, &meta, &owners).await?;
        }
        Ok(())
    }

    /// Takes off the references to owners that are gone, or deletes what has no other.
    async fn act(&self, uid: &Uid, node: &Node, meta: &ObjectMeta, owners: &[Owner]) -> Result<(), Failure> {
        if !owners.contains(&Owner::Solid) {
            return self.delete(uid, node, meta, owners.contains(&Owner::Waiting)).await;
        }
        let references = meta.owner_references.iter().flatten();
        let solid = references.zip(owners).filter(|(_, owner)| **owner == Owner::Solid);
        let solid: Vec<&OwnerReference> = solid.map(|(one, _)| one).collect();
        if solid.len() < owners.len() {
            self.patch(node, meta, json!({ "ownerReferences": solid })).await?;
        }
        Ok(())
    }

    /// The owner that a reference names.
    async fn owner(&self, dependent: &ObjectMeta, reference: &OwnerReference) -> Result<Owner, Failure> {
        let known = |kind: &&Arc<Kind>| kind.kind == reference.kind && kind.api_version() == reference.api_version;
        let Some(kind) = self.kinds.iter().find(known) else { return Ok(Owner::Solid) };
        if kind.namespaced && dependent.namespace.is_none() {
            return Ok(Owner::Solid);
        }
        let namespace = dependent.namespace.clone().filter(|_| kind.namespaced);
        let found = self.read(kind, &Key { namespace, name: reference.name.clone() }).await?;
        Ok(match found.filter(|owner| owner.uid.as_ref() == Some(&reference.uid)) {
            None => Owner::Gone,
            Some(owner) if is_held(&owner, FOREGROUND) => Owner::Waiting,
            Some(_) => Owner::Solid,
        })
    }

    /// Deletes an object that nobody owns; one that its owner waits for takes its own dependents along first.
    async fn delete(&self, uid: &Uid, node: &Node, meta: &ObjectMeta, waited_for: bool) -> Result<(), Failure> {
        let has_dependents = self.with_graph(|graph| !graph.dependents(uid).is_empty());
        let finalizers = || meta.finalizers.iter().flatten().map(String::as_str);
        let policy = if finalizers().any(|name| name == ORPHAN) {
            PropagationPolicy::Orphan
        } else if finalizers().any(|name| name == FOREGROUND) || (waited_for && has_dependents) {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(uid.clone()),
                resource_version: meta.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let request = self.place(node).delete(&node.key.name, &params).map_err(Objects::unbuildable)?;
        self.metrics.effects.increment();
        self.objects.deleted(request, self.doing("delete", node)).await.map(drop)
    }

    /// Does for an object that is being deleted what its deletion waits for.
    async fn finish(&self, uid: &Uid, node: &Node, meta: &ObjectMeta, done: &mut Done<Uid>) -> Result<(), Failure> {
        let dependents = self.with_graph(|graph| graph.dependents(uid));
        if is_held(meta, ORPHAN) {
            for (dependent_uid, dependent) in &dependents {
                self.let_go(dependent_uid, dependent, uid).await?;
            }
            return self.release(node, meta, ORPHAN).await;
        }
        if !is_held(meta, FOREGROUND) {
            return Ok(());
        }
        let blocks = |dependent: &Node| dependent.owners.iter().any(|(owner, blocks)| owner == uid && *blocks);
        if !dependents.iter().any(|(_, dependent)| blocks(dependent)) {
            return self.release(node, meta, FOREGROUND).await;
        }
        done.wakes.extend(dependents.into_iter().filter(|(_, dependent)| !dependent.deleting).map(|(uid, _)| uid));
        Ok(())
    }

    /// Takes an owner off a dependent.
    async fn let_go(&self, uid: &Uid, dependent: &Node, owner: &Uid) -> Result<(), Failure> {
        let found = self.read(&self.kinds[dependent.kind], &dependent.key).await?;
        let Some(meta) = found.filter(|meta| meta.uid.as_ref() == Some(uid)) else { return Ok(()) };
        let left: Vec<_> = meta.owner_references.iter().flatten().filter(|reference| reference.uid != *owner).collect();
        self.patch(dependent, &meta, json!({ "ownerReferences": left })).await
    }

    async fn release(&self, node: &Node, meta: &ObjectMeta, finalizer: &str) -> Result<(), Failure> {
        let left: Vec<_> = meta.finalizers.iter().flatten().filter(|name| *name != finalizer).collect();
        self.patch(node, meta, json!({ "finalizers": left })).await
    }

    /// Changes metadata, on the version that was read.
    async fn patch(&self, node: &Node, meta: &ObjectMeta, mut change: Value) -> Result<(), Failure> {
        change["resourceVersion"] = json!(meta.resource_version);
        let body = json!({ "metadata": change });
        let request = self
            .place(node)
            .patch(&node.key.name, &PatchParams::default(), &Patch::Merge(&body))
            .map_err(Objects::unbuildable)?;
        self.metrics.effects.increment();
        let what = self.doing("patch", node);
        let result: Result<Effect, Failure> = self.objects.deleted(request, what).await;
        result.map(drop)
    }

    async fn read(&self, kind: &Kind, key: &Key) -> Result<Option<ObjectMeta>, Failure> {
        #[derive(serde::Deserialize)]
        struct Object {
            metadata: ObjectMeta,
        }
        let request = Request::new(kinds::collection(kind, key.namespace.as_deref()))
            .get(&key.name, &GetParams::default())
            .map_err(Objects::unbuildable)?;
        match self.objects.call::<Object>(request, format!("read {} {key}", kind.kind)).await {
            Ok(object) => Ok(Some(object.metadata)),
            Err(failure) if failure.class() == Class::Terminal(Reason::NotFound) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn place(&self, node: &Node) -> Request {
        Request::new(kinds::collection(&self.kinds[node.kind], node.key.namespace.as_deref()))
    }

    fn doing(&self, verb: &str, node: &Node) -> String {
        format!("{verb} {} {}", self.kinds[node.kind].kind, node.key)
    }
}

fn is_held(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().any(|name| name == finalizer)
}
