//! The registry's kinds, compiled once for serving: schema, store name, constant bytes and particular habits.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use mainstay_api::schema::{CompileError, Schema};
use mainstay_api::{Kind, Registry};
use mainstay_runtime::{Class, Classify, Reason};
use mainstay_store::{Key, Scope};

use crate::object;

/// A kind cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the schema of {kind} cannot be compiled")]
pub struct CatalogError {
    kind: &'static str,
    source: CompileError,
}

impl Classify for CatalogError {
    fn class(&self) -> Class {
        Class::Terminal(Reason::Invalid)
    }
}

/// One kind, ready to be served.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The kind.
    pub(crate) kind: Arc<Kind>,
    /// The store's name of the resource.
    pub(crate) resource: Arc<str>,
    /// `GROUP/VERSION`.
    pub(crate) api_version: String,
    /// Its compiled schema.
    pub(crate) schema: Schema,
    /// What stored objects begin with, up to the opening quote of their resourceVersion.
    pub(crate) head: Bytes,
    /// Habits that the registry cannot express.
    pub(crate) habit: Habit,
}

/// Kinds that are stored, read or written in a way of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// As the registry says.
    Plain,
    /// `data` is sealed at rest.
    Secret,
    /// `spec.token` is sealed at rest and never returned.
    Credential,
    /// Takes its project's default agent; activity is merged in when read; has messages.
    Session,
    /// Cannot vanish before what lives in it.
    Namespace,
    /// Deletion waits for a grace period; has logs.
    Pod,
    /// Has tokens.
    ServiceAccount,
    /// Its agent connects to the server.
    Node,
    /// Takes a namespace, if it is free.
    Project,
    /// Has a row in the queue, which follows it and is shown in its status; is held until it has ended.
    Operation,
}

impl Habit {
    fn of(kind: &Kind) -> Self {
        match (kind.group, kind.plural) {
            ("", "secrets") => Self::Secret,
            ("", "namespaces") => Self::Namespace,
            ("", "pods") => Self::Pod,
            ("", "serviceaccounts") => Self::ServiceAccount,
            ("", "nodes") => Self::Node,
            ("mainstay.dev", "credentials") => Self::Credential,
            ("mainstay.dev", "sessions") => Self::Session,
            ("mainstay.dev", "projects") => Self::Project,
            ("mainstay.dev", "operations") => Self::Operation,
            _ => Self::Plain,
        }
    }

    /// Whether its objects are not held in memory: there may be any number.
    pub(crate) const fn is_on_disk(self) -> bool {
        matches!(self, Self::Operation)
    }

    /// Whether stored bytes differ from what clients may read.
    pub(crate) const fn reads_differ(self) -> bool {
        matches!(self, Self::Secret | Self::Credential | Self::Session | Self::Operation)
    }
}

impl Entry {
    fn compile(kind: &Arc<Kind>) -> Result<Self, CatalogError> {
        let api_version = kind.api_version();
        let schema = Schema::of_kind(kind).map_err(|source| CatalogError { kind: kind.kind, source })?;
        Ok(Self {
            resource: kind.resource().into(),
            schema,
            head: object::head(kind).into(),
            habit: Habit::of(kind),
            api_version,
            kind: kind.clone(),
        })
    }

    /// Whether `metadata.generation` counts changes of the spec. Upstream's plain data kinds have none.
    pub(crate) fn has_generation(&self) -> bool {
        self.kind.status || !self.kind.core
    }

    /// The store's key of an object of this kind.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> Key {
        Key { resource: self.resource.clone(), namespace: namespace.into(), name: name.into() }
    }

    /// All objects of this kind, or those of one namespace.
    pub(crate) fn scope(&self, namespace: Option<&str>) -> Scope {
        // Cluster-scoped objects live in the namespace "".
        let namespace = if self.kind.namespaced { namespace } else { Some("") };
        Scope { resource: self.resource.clone(), namespace: namespace.map(Arc::from), name: None }
    }
}

/// All kinds, by plural.
#[derive(Debug)]
pub(crate) struct Catalog {
    by_plural: HashMap<&'static str, Vec<Arc<Entry>>>,
}

impl Catalog {
    /// Compiles a registry.
    ///
    /// # Errors
    /// When a kind's schema says something that cannot be enforced.
    pub(crate) fn new(registry: &Registry) -> Result<Self, CatalogError> {
        let mut by_plural: HashMap<&'static str, Vec<Arc<Entry>>> = HashMap::new();
        for kind in registry.iter() {
            by_plural.entry(kind.plural).or_default().push(Arc::new(Entry::compile(kind)?));
        }
        Ok(Self { by_plural })
    }

    /// The kind behind a URL.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Entry>> {
        self.by_plural.get(plural)?.iter().find(|entry| entry.kind.group == group && entry.kind.version == version)
    }

    /// The kind of a manifest, or of a reference.
    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Entry>> {
        self.by_plural.values().flatten().find(|entry| entry.kind.kind == kind && entry.api_version == api_version)
    }

    /// The kind of a group, whatever its version.
    pub(crate) fn of_group(&self, group: &str, plural: &str) -> Option<&Arc<Entry>> {
        self.by_plural.get(plural)?.iter().find(|entry| entry.kind.group == group)
    }
}
