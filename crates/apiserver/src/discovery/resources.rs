//! The served resources, in the terms that discovery and OpenAPI share.

use std::sync::Arc;

use mainstay_api::{Kind, Registry};

/// The verbs of every kind.
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// An API group with its versions, in the order of their registration.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name; empty for the core group.
    pub name: &'static str,
    /// Resources by version.
    pub versions: Vec<(&'static str, Vec<Resource>)>,
}

/// One resource.
#[derive(Debug, Clone)]
pub struct Resource {
    /// API group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind of its objects.
    pub kind: &'static str,
    /// Lower-case plural.
    pub plural: &'static str,
    /// Lower-case singular.
    pub singular: &'static str,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
    /// Short names.
    pub short_names: &'static [&'static str],
    /// Categories.
    pub categories: &'static [&'static str],
    /// What lies below an object.
    pub subresources: Vec<Subresource>,
    /// Its row in the registry; `None` for a question that is answered and not stored.
    pub stored: Option<Arc<Kind>>,
}

/// Something that lies below an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// Its name.
    pub name: &'static str,
    /// Group of the kind that it speaks.
    pub group: &'static str,
    /// Version of the kind that it speaks.
    pub version: &'static str,
    /// The kind that it speaks.
    pub kind: &'static str,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

impl Group {
    /// `GROUP/VERSION`, or `VERSION` in the core group.
    pub fn group_version(&self, version: &str) -> String {
        if self.name.is_empty() { version.to_owned() } else { format!("{}/{version}", self.name) }
    }

    /// `apis/GROUP/VERSION`, or `api/VERSION` in the core group.
    pub fn path(&self, version: &str) -> String {
        if self.name.is_empty() { format!("api/{version}") } else { format!("apis/{}/{version}", self.name) }
    }
}

/// The groups of a registry, and those of the questions that every server answers.
pub fn groups(registry: &Registry) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for resource in registry.iter().map(stored).chain(questions()) {
        let at = groups.iter().position(|group| group.name == resource.group).unwrap_or_else(|| {
            groups.push(Group { name: resource.group, versions: Vec::new() });
            groups.len() - 1
        });
        let Some(Group { versions, .. }) = groups.get_mut(at) else { continue };
        match versions.iter_mut().find(|(version, _)| *version == resource.version) {
            Some((_, resources)) => resources.push(resource),
            None => versions.push((resource.version, vec![resource])),
        }
    }
    groups
}

fn stored(kind: &Arc<Kind>) -> Resource {
    Resource {
        group: kind.group,
        version: kind.version,
        kind: kind.kind,
        plural: kind.plural,
        singular: kind.singular,
        namespaced: kind.namespaced,
        verbs: VERBS,
        short_names: kind.short_names,
        categories: kind.categories,
        subresources: subresources(kind),
        stored: Some(kind.clone()),
    }
}

fn subresources(kind: &Kind) -> Vec<Subresource> {
    let own = |name, speaks, verbs| Subresource { name, group: kind.group, version: kind.version, kind: speaks, verbs };
    let mut list = Vec::new();
    if kind.status {
        list.push(own("status", kind.kind, &["get", "patch", "update"] as &[_]));
    }
    match (kind.group, kind.plural) {
        ("", "pods") => {
            list.push(own("log", kind.kind, &["get"]));
            list.push(own("exec", "PodExecOptions", &["create", "get"]));
        }
        ("", "nodes") => list.push(own("link", kind.kind, &["get"])),
        ("", "serviceaccounts") => list.push(Subresource {
            name: "token",
            group: "authentication.k8s.io",
            version: "v1",
            kind: "TokenRequest",
            verbs: &["create"],
        }),
        (mainstay_api::GROUP, "sessions") => {
            list.push(own("messages", "SessionMessages", &["create", "get"]));
            list.push(own("heartbeat", "SessionHeartbeat", &["get", "update"]));
        }
        (mainstay_api::GROUP, "credentials") => list.push(own("reveal", "RevealedCredential", &["get"])),
        _ => {}
    }
    list
}

/// What is posted to get an answer, and not stored.
fn questions() -> impl Iterator<Item = Resource> {
    [
        ("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"),
        ("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview"),
        ("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"),
    ]
    .into_iter()
    .map(|(group, kind, plural, singular)| Resource {
        group,
        version: "v1",
        kind,
        plural,
        singular,
        namespaced: false,
        verbs: &["create"],
        short_names: &[],
        categories: &[],
        subresources: Vec::new(),
        stored: None,
    })
}
