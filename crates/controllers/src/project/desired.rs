//! What a project's namespace is to hold. Pure.

use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use mainstay_api::names;
use mainstay_api::project::{Member, MemberKind, Project};
use serde_json::{Map, Value, json};

use super::{Action, is_of};

/// The name of a project's quota.
pub(super) const QUOTA: &str = "project";
const RBAC: &str = "rbac.authorization.k8s.io";

/// What one project asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Desired<'a>(&'a Project);

impl<'a> Desired<'a> {
    pub(super) const fn of(project: &'a Project) -> Self {
        Self(project)
    }

    pub(super) fn name(self) -> &'a str {
        self.0.metadata.name.as_deref().unwrap_or_default()
    }

    fn owner(self) -> OwnerReference {
        OwnerReference {
            api_version: Project::api_version(&()).into_owned(),
            kind: Project::kind(&()).into_owned(),
            name: self.name().to_owned(),
            uid: self.0.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    pub(super) fn namespace(self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": self.name(),
                "labels": { names::PROJECT: self.name() },
                "ownerReferences": [self.owner()],
            },
        })
    }

    fn binding(self, member: &Member) -> RoleBinding {
        let (kind, api_group, namespace) = match member.kind {
            MemberKind::User => ("User", Some(RBAC.to_owned()), None),
            MemberKind::ServiceAccount => ("ServiceAccount", None, Some(self.name().to_owned())),
        };
        RoleBinding {
            metadata: ObjectMeta {
                name: Some(binding_name(member)),
                namespace: Some(self.name().to_owned()),
                labels: Some([(names::PROJECT.to_owned(), self.name().to_owned())].into()),
                owner_references: Some(vec![self.owner()]),
                ..ObjectMeta::default()
            },
            role_ref: RoleRef {
                api_group: RBAC.to_owned(),
                kind: "ClusterRole".to_owned(),
                name: format!("mainstay:{}", member.role.as_str()),
            },
            subjects: Some(vec![Subject { api_group, kind: kind.to_owned(), name: member.name.clone(), namespace }]),
        }
    }

    /// Bindings to make or to mend, and those of nobody who is a member to take away. Taking away comes first.
    pub(super) fn bindings(self, found: &[RoleBinding]) -> Vec<Action> {
        let wanted: Vec<RoleBinding> = self.0.spec.members.iter().map(|member| self.binding(member)).collect();
        let stands = |found: &RoleBinding| wanted.iter().any(|wanted| grants_the_same(found, wanted));
        let stale = found.iter().filter(|found| self.made(found) && !stands(found));
        let mut actions: Vec<Action> = stale.map(|found| Action::Unbind(Box::new(found.clone()))).collect();
        for wanted in &wanted {
            match found.iter().find(|found| grants_the_same(found, wanted)) {
                None => actions.push(Action::Bind(Box::new(wanted.clone()))),
                Some(found) if self.is_marked(found) => {}
                Some(found) => actions.push(Action::Mark(Box::new(self.marked(found)))),
            }
        }
        actions
    }

    /// Whether the project made this binding. Owners of the project may change metadata, so its name tells as well.
    fn made(self, found: &RoleBinding) -> bool {
        is_of(self.0, &found.metadata) || found.metadata.name.as_deref().is_some_and(is_binding_name)
    }

    /// Whether the binding says itself whose it is.
    fn is_marked(self, found: &RoleBinding) -> bool {
        let label = found.metadata.labels.as_ref().and_then(|labels| labels.get(names::PROJECT));
        is_of(self.0, &found.metadata) && label.is_some_and(|label| label == self.name())
    }

    /// The change that makes the binding say whose it is.
    fn marked(self, found: &RoleBinding) -> RoleBinding {
        let mut marked = found.clone();
        marked.metadata.labels.get_or_insert_default().insert(names::PROJECT.to_owned(), self.name().to_owned());
        let owners = marked.metadata.owner_references.get_or_insert_default();
        owners.retain(|owner| owner.controller != Some(true) && Some(&owner.uid) != self.0.metadata.uid.as_ref());
        owners.push(self.owner());
        marked
    }

    /// The quota as it should be, when it is not.
    pub(super) fn quota(self, found: Option<&ResourceQuota>) -> Option<Action> {
        let quota = &self.0.spec.quota;
        let mut hard = Map::new();
        for (name, limit) in [
            ("count/sessions.mainstay.dev", quota.sessions.map(|count| count.to_string())),
            ("pods", quota.running.map(|count| count.to_string())),
            ("limits.cpu", quota.cpu.clone()),
            ("limits.memory", quota.memory.clone()),
        ] {
            if let Some(limit) = limit {
                hard.insert(name.to_owned(), limit.into());
            }
        }
        let Some(found) = found else {
            return (!hard.is_empty()).then(|| Action::SetQuota(self.quota_body(&hard), true));
        };
        if hard.is_empty() {
            return is_of(self.0, &found.metadata).then_some(Action::DropQuota);
        }
        let current = json!(found.spec.as_ref().and_then(|spec| spec.hard.as_ref()));
        if current == Value::Object(hard.clone()) {
            return None;
        }
        // In a merge patch what is no longer limited must be named.
        for name in current.as_object().into_iter().flat_map(Map::keys) {
            hard.entry(name.clone()).or_insert(Value::Null);
        }
        Some(Action::SetQuota(self.quota_body(&hard), false))
    }

    fn quota_body(self, hard: &Map<String, Value>) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {
                "name": QUOTA,
                "labels": { names::PROJECT: self.name() },
                "ownerReferences": [self.owner()],
            },
            "spec": { "hard": hard },
        })
    }
}

/// Whether a binding grants what is wanted, and goes on doing so.
fn grants_the_same(found: &RoleBinding, wanted: &RoleBinding) -> bool {
    found.metadata.name == wanted.metadata.name
        && found.metadata.deletion_timestamp.is_none()
        && found.role_ref.name == wanted.role_ref.name
        && same_subjects(found, wanted)
}

/// The server fills in what a subject leaves out: only what says who it is counts.
fn same_subjects(one: &RoleBinding, other: &RoleBinding) -> bool {
    let who = |binding: &RoleBinding| -> Vec<(String, String, Option<String>)> {
        let subjects = binding.subjects.iter().flatten();
        subjects.map(|subject| (subject.kind.clone(), subject.name.clone(), subject.namespace.clone())).collect()
    };
    who(one) == who(other)
}

/// The name of a member's binding: readable, and different for different members and roles.
fn binding_name(member: &Member) -> String {
    let kind = match member.kind {
        MemberKind::User => "user",
        MemberKind::ServiceAccount => "serviceaccount",
    };
    let readable: String = member
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(32)
        .collect();
    let readable = readable.trim_matches('-');
    let role = member.role.as_str();
    let code = fnv1a(format!("{kind}/{}/{role}", member.name).as_bytes());
    if readable.is_empty() {
        format!("{role}-{kind}-{code:016x}")
    } else {
        format!("{role}-{kind}-{readable}-{code:016x}")
    }
}

/// Whether [`binding_name`] makes such names: in a project's namespace they are the project's.
fn is_binding_name(name: &str) -> bool {
    let is_code = |code: &str| code.len() == 16 && code.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = name.split('-');
    parts.next().is_some_and(|role| ["owner", "editor", "viewer"].contains(&role))
        && parts.next().is_some_and(|kind| ["user", "serviceaccount"].contains(&kind))
        && parts.next_back().is_some_and(is_code)
}

/// FNV-1a: stable for ever, which is all that a name needs.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
