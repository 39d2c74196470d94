//! What drill-backend can do.

/// What an effect does to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Makes a resource; there must be none of that name.
    Create,
    /// Changes a resource, which must be there.
    Update,
    /// Makes or changes a resource.
    Put,
    /// Removes a resource; that there is none is as good.
    Delete,
    /// Leaves nothing behind but its result.
    Run,
}

/// A kind of effect.
#[derive(Debug, PartialEq, Eq)]
pub struct Verb {
    /// `compute`, `network`, ...
    pub backend: &'static str,
    /// Its name in the URL.
    pub name: &'static str,
    /// Of which resources.
    pub kind: &'static str,
    /// What it does to them.
    pub change: Change,
}

const fn verb(backend: &'static str, name: &'static str, kind: &'static str, change: Change) -> Verb {
    Verb { backend, name, kind, change }
}

/// All verbs.
pub const VERBS: [Verb; 20] = [
    verb("compute", "launch", "instance", Change::Create),
    verb("compute", "start", "instance", Change::Update),
    verb("compute", "stop", "instance", Change::Update),
    verb("compute", "delete", "instance", Change::Delete),
    verb("compute", "run-task", "task", Change::Run),
    verb("compute", "stop-task", "task", Change::Delete),
    verb("network", "create", "network", Change::Create),
    verb("network", "delete", "network", Change::Delete),
    verb("network", "add-rule", "rule", Change::Create),
    verb("network", "remove-rule", "rule", Change::Delete),
    verb("storage", "create", "volume", Change::Create),
    verb("storage", "resize", "volume", Change::Update),
    verb("storage", "delete", "volume", Change::Delete),
    verb("storage", "snapshot", "snapshot", Change::Create),
    verb("storage", "delete-snapshot", "snapshot", Change::Delete),
    verb("dns", "put-record", "record", Change::Put),
    verb("dns", "delete-record", "record", Change::Delete),
    verb("load-balancer", "deploy", "load-balancer", Change::Create),
    verb("load-balancer", "update", "load-balancer", Change::Update),
    verb("load-balancer", "remove", "load-balancer", Change::Delete),
];

/// The verb of that name.
pub fn find(backend: &str, name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.backend == backend && verb.name == name)
}
