//! What a reconciler is: `observe` (reads) -> `plan` (pure) -> `apply` (one effect each).
//!
//! An event only wakes a reconciler; it reads the world anew. The driver alone calls these, applies a plan's actions
//! in order, stops at the first failure, and decides when to come back.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::Resource;
use mainstay_runtime::{Failure, Timestamp};
use serde::de::DeserializeOwned;

use crate::driver::{Key, Version};

/// Proof of which control plane gives an order; receivers refuse an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FencingToken(pub u64);

/// When a settled key is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When something changes.
    AwaitChange,
    /// After this time, or when something changes.
    After(Duration),
}

/// What is to be done now, in order, and when to look again.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<A> {
    /// Effects, one each.
    pub actions: Vec<A>,
    /// When to look again after all of them.
    pub next: Next,
}

impl<A> Plan<A> {
    /// Nothing to do.
    pub const fn settled(next: Next) -> Self {
        Self { actions: Vec::new(), next }
    }

    /// These effects.
    pub fn act(actions: impl Into<Vec<A>>, next: Next) -> Self {
        Self { actions: actions.into(), next }
    }
}

/// What came of one effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// The versions that its answers carried: their events do not wake the key again.
    pub versions: Vec<Version>,
    /// Other keys of the same kind that should look again because of it.
    pub wakes: Vec<Key>,
    /// The world did not allow it: leave the rest of the plan, and look again then.
    pub halt: Option<Next>,
}

impl Effect {
    /// Nothing of which an event tells.
    pub const NONE: Self = Self { versions: Vec::new(), wakes: Vec::new(), halt: None };

    /// An object was written: this is its metadata now.
    pub fn wrote(meta: &ObjectMeta) -> Self {
        let version = meta.resource_version.as_deref().and_then(|version| version.parse().ok());
        Self { versions: version.into_iter().collect(), ..Self::NONE }
    }

    /// With these keys to look again.
    #[must_use]
    pub fn waking(mut self, keys: impl IntoIterator<Item = Key>) -> Self {
        self.wakes.extend(keys);
        self
    }

    /// With the rest of the plan left.
    #[must_use]
    pub fn halting(mut self, next: Next) -> Self {
        self.halt = Some(next);
        self
    }
}

/// Brings the world to what one kind of object asks for.
pub trait Reconciler: Send + Sync + 'static {
    /// The kind of object.
    type Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static;
    /// What was read of the world.
    type Observed: Send + Sync;
    /// One effect.
    type Action: Clone + Debug + Send;

    /// The reconciler's name, in logs, metrics and identities.
    const NAME: &'static str;
    /// How many keys are reconciled at once.
    const CONCURRENCY: usize = 16;
    /// Whether the object has `status.conditions` to report failures in.
    const REPORTS: bool = true;

    /// Reads the world.
    fn observe(&self, object: &Self::Object) -> impl Future<Output = Result<Self::Observed, Failure>> + Send;

    /// Decides, from what was read and the time alone.
    fn plan(object: &Self::Object, observed: &Self::Observed, now: Timestamp) -> Plan<Self::Action>;

    /// Carries out one effect; repeating it must be harmless.
    fn apply(
        &self,
        object: &Self::Object,
        action: Self::Action,
        token: FencingToken,
    ) -> impl Future<Output = Result<Effect, Failure>> + Send;

    /// The object's conditions, so that a failure that was reported is taken back on success.
    fn conditions(_object: &Self::Object) -> &[Condition] {
        &[]
    }
}
