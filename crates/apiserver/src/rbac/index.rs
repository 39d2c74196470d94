//! Roles and bindings, compiled for look-up by subject.
//!
//! Pure: changed by one object at a time, in the order of revisions. A role or binding that cannot be read grants
//! nothing.

use std::collections::HashMap;
use std::sync::Arc;

use mainstay_store::Object;
use serde::Deserialize;

use super::rule::Rule;
use crate::auth::identity::Identity;

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";
pub(super) const ROLES: &str = "rbac.authorization.k8s.io/roles";
pub(super) const CLUSTER_ROLES: &str = "rbac.authorization.k8s.io/clusterroles";
pub(super) const ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/rolebindings";
pub(super) const CLUSTER_ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/clusterrolebindings";

type Name = (Arc<str>, Arc<str>);

/// All roles and bindings. The namespace of what is cluster-scoped is empty.
#[derive(Debug, Default)]
pub(super) struct Index {
    roles: HashMap<Name, Arc<[Rule]>>,
    bindings: HashMap<Name, Vec<Subject>>,
    /// By namespace.
    grants: HashMap<Arc<str>, Grants>,
}

/// Grants of one namespace by subject; sorted by name of the binding, so that reasons are the same each time.
#[derive(Debug, Default)]
struct Grants {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

impl Grants {
    fn of(&mut self, subject: &Subject) -> &mut Vec<Grant> {
        match subject {
            Subject::User(name) => self.users.entry(name.clone()).or_default(),
            Subject::Group(name) => self.groups.entry(name.clone()).or_default(),
        }
    }

    fn forget(&mut self, subject: &Subject, binding: &str) {
        let (side, name) = match subject {
            Subject::User(name) => (&mut self.users, name),
            Subject::Group(name) => (&mut self.groups, name),
        };
        if let Some(grants) = side.get_mut(name) {
            grants.retain(|grant| *grant.binding != *binding);
            if grants.is_empty() {
                side.remove(name);
            }
        }
    }
}

/// Whom a binding binds.
#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
}

#[derive(Debug)]
struct Grant {
    binding: Arc<str>,
    role: Name,
}

#[derive(Deserialize)]
struct RoleBody {
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BindingBody {
    #[serde(default)]
    subjects: Option<Vec<SubjectBody>>,
    pub(super) role_ref: RoleRef,
}

#[derive(PartialEq, Eq, Deserialize)]
struct SubjectBody {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RoleRef {
    #[serde(default)]
    pub(super) api_group: String,
    pub(super) kind: String,
    pub(super) name: String,
}

impl RoleRef {
    /// The namespace in which the role is looked for, by a binding in `namespace`; `None` when it names no role.
    pub(super) fn role_namespace<'a>(&self, namespace: &'a str) -> Option<&'a str> {
        if !self.api_group.is_empty() && self.api_group != GROUP {
            return None;
        }
        match self.kind.as_str() {
            "ClusterRole" => Some(""),
            "Role" if !namespace.is_empty() => Some(namespace),
            _ => None,
        }
    }
}

/// A rule that a caller holds, and where it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) rule: &'a Rule,
    /// Bound by a ClusterRoleBinding.
    pub(super) everywhere: bool,
    pub(super) binding: &'a str,
    pub(super) role: &'a str,
}

impl Index {
    /// Takes in a new or changed role or binding.
    pub(super) fn put(&mut self, object: &Object) {
        let name = (Arc::clone(&object.key.namespace), Arc::clone(&object.key.name));
        match &*object.key.resource {
            ROLES | CLUSTER_ROLES => {
                let rules = serde_json::from_slice::<RoleBody>(&object.body).ok().and_then(|body| body.rules);
                self.roles.insert(name, rules.unwrap_or_default().into());
            }
            ROLE_BINDINGS | CLUSTER_ROLE_BINDINGS => {
                self.unbind(&name);
                if let Ok(body) = serde_json::from_slice::<BindingBody>(&object.body) {
                    self.bind(name, body);
                }
            }
            _ => {}
        }
    }

    /// Forgets a deleted role or binding.
    pub(super) fn remove(&mut self, object: &Object) {
        let name = (Arc::clone(&object.key.namespace), Arc::clone(&object.key.name));
        match &*object.key.resource {
            ROLES | CLUSTER_ROLES => drop(self.roles.remove(&name)),
            ROLE_BINDINGS | CLUSTER_ROLE_BINDINGS => self.unbind(&name),
            _ => {}
        }
    }

    fn bind(&mut self, name: Name, body: BindingBody) {
        let (namespace, binding) = &name;
        let Some(role_namespace) = body.role_ref.role_namespace(namespace) else { return };
        let role: Name = (role_namespace.into(), body.role_ref.name.as_str().into());
        let subjects: Vec<Subject> =
            body.subjects.unwrap_or_default().into_iter().filter_map(|subject| subject.read(namespace)).collect();
        let here = self.grants.entry(Arc::clone(namespace)).or_default();
        for subject in &subjects {
            let grants = here.of(subject);
            let at = grants.partition_point(|grant| grant.binding < *binding);
            grants.insert(at, Grant { binding: Arc::clone(binding), role: role.clone() });
        }
        self.bindings.insert(name, subjects);
    }

    fn unbind(&mut self, name: &Name) {
        let Some(subjects) = self.bindings.remove(name) else { return };
        let Some(here) = self.grants.get_mut(&name.0) else { return };
        for subject in subjects {
            here.forget(&subject, &name.1);
        }
        if here.users.is_empty() && here.groups.is_empty() {
            self.grants.remove(&name.0);
        }
    }

    /// The rules of a role; `None` when there is no such role.
    pub(super) fn role(&self, namespace: &str, name: &str) -> Option<&[Rule]> {
        self.roles.get(&(namespace.into(), name.into())).map(|rules| &**rules)
    }

    /// Every rule that a caller holds in a namespace (with those that hold everywhere first), or everywhere when the
    /// namespace is empty; always in the same order. Ends when `visit` gives something.
    pub(super) fn find<'a, T>(
        &'a self,
        who: &Identity,
        namespace: &str,
        mut visit: impl FnMut(Held<'a>) -> Option<T>,
    ) -> Option<T> {
        let scopes = if namespace.is_empty() { &[""][..] } else { &["", namespace][..] };
        for scope in scopes {
            let Some(here) = self.grants.get(*scope) else { continue };
            let by_group = who.groups().iter().filter_map(|group| here.groups.get(group));
            for grant in here.users.get(who.user()).into_iter().chain(by_group).flatten() {
                let Some(rules) = self.roles.get(&grant.role) else { continue };
                for rule in rules.iter() {
                    let everywhere = scope.is_empty();
                    let held = Held { rule, everywhere, binding: &grant.binding, role: &grant.role.1 };
                    if let Some(found) = visit(held) {
                        return Some(found);
                    }
                }
            }
        }
        None
    }
}

impl SubjectBody {
    fn read(self, namespace: &str) -> Option<Subject> {
        match self.kind.as_str() {
            "User" => Some(Subject::User(self.name)),
            "Group" => Some(Subject::Group(self.name)),
            "ServiceAccount" => {
                let home = if self.namespace.is_empty() { namespace } else { &self.namespace };
                (!home.is_empty()).then(|| Subject::User(format!("system:serviceaccount:{home}:{}", self.name)))
            }
            _ => None,
        }
    }
}
