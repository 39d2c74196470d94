//! `Project`: a team's space. It owns the namespace of its name, and everything in it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::common::{self, Resources, quoted};
use crate::field::FieldError;
use crate::kind::{Column, Kind, Rules, Unknown};
use crate::names;
use crate::operation::OperationRef;
use crate::session::{check_workspace_size, unreadable};
use crate::span::Span;

/// A team's space.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "mainstay.dev", version = "v1alpha1", kind = "Project", shortname = "proj")]
#[kube(status = "ProjectStatus", derive = "PartialEq", derive = "Default")]
#[serde(rename_all = "camelCase")]
pub struct ProjectSpec {
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub display_name: Option<String>,
    /// What it is for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Standing instructions for every session, put before the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    pub prompt: Option<String>,
    /// The agent of sessions that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_agent: Option<String>,
    /// Who may do what; removal revokes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub members: Vec<Member>,
    /// What its sessions use when they do not say otherwise.
    #[serde(default)]
    pub session_defaults: SessionDefaults,
    /// What its sessions may use together.
    #[serde(default)]
    pub quota: Quota,
}

/// One member of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// `User`, or `ServiceAccount` (of the project's namespace).
    #[serde(default)]
    pub kind: MemberKind,
    /// User name, or name of the service account.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// What a member is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberKind {
    /// A user name.
    #[default]
    User,
    /// A service account of the project's namespace.
    ServiceAccount,
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// All, members included.
    Owner,
    /// Agents, sessions, messages; credentials can be written but not read.
    Editor,
    /// Look, but not touch; no secrets.
    Viewer,
}

impl Role {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
        }
    }
}

/// What sessions use when they do not say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionDefaults {
    /// Longest life of a run. A change counts for the runs that live, too, but for none longer than it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Longest time without activity; 24 h when absent, 0 = never. A change counts at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactivity_timeout: Option<Span>,
    /// Limits of a sandbox.
    #[serde(default)]
    pub resources: Resources,
    /// Size of a workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_size: Option<String>,
}

/// What a project's sessions may use together; what is absent is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Sessions in the namespace, whatever their phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Pods at one time: sessions at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
    /// Cores of all Pods together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory of all Pods together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// What is known of a project.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectStatus {
    /// `Pending`, `Active` or `Terminating`.
    #[serde(default)]
    pub phase: ProjectPhase,
    /// The generation of the spec that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The operations ordered for it, and how they ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub operations: Vec<OperationRef>,
}

/// Where a project is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProjectPhase {
    /// Its namespace is being made.
    #[default]
    Pending,
    /// Ready for use.
    Active,
    /// Being torn down.
    Terminating,
}

/// The row of this kind in the registry.
pub fn kind() -> Kind {
    Kind {
        group: crate::GROUP,
        version: crate::VERSION,
        kind: "Project",
        plural: "projects",
        singular: "project",
        short_names: &["proj"],
        categories: &["mainstay"],
        namespaced: false,
        status: true,
        core: false,
        columns: COLUMNS,
        selectable: &["status.phase"],
        schema: crate::schema::of::<Project>,
        unknown: Unknown::AsAsked,
        rules: Rules { on_create, check, ..Rules::NONE },
    }
}

const COLUMNS: &[Column] = &[
    Column { name: "Phase", kind: "string", path: "status.phase", priority: 0, description: "Where it is in its life" },
    Column {
        name: "Display Name",
        kind: "string",
        path: "spec.displayName",
        priority: 0,
        description: "Its name for people",
    },
    Column { name: "Members", kind: "integer", path: "spec.members#", priority: 1, description: "How many members" },
    Column {
        name: "Default Agent",
        kind: "string",
        path: "spec.defaultAgent",
        priority: 1,
        description: "Agent of sessions that name none",
    },
];

/// Namespaces that no project may take.
pub const RESERVED: [&str; 5] = ["default", "mainstay-system", "kube-system", "kube-public", "kube-node-lease"];

fn on_create(object: &mut Value) {
    names::hold(object, names::PROJECT_FINALIZER);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".to_owned(), json!({ "phase": "Pending" }));
    }
}

fn check(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let spec = match ProjectSpec::deserialize(&new["spec"]) {
        Ok(spec) => spec,
        Err(error) => return unreadable(&new["spec"]["sessionDefaults"], "spec.sessionDefaults", &error),
    };
    let mut errors = Vec::new();
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(fault) = common::label_fault(name).filter(|_| !name.is_empty()) {
        errors.push(FieldError::invalid(
            "metadata.name",
            quoted(name),
            format!("{fault}: it is also the name of a namespace"),
        ));
    }
    if let Some(fault) = spec.default_agent.as_deref().and_then(common::name_fault) {
        errors.push(FieldError::invalid(
            "spec.defaultAgent",
            quoted(spec.default_agent.as_deref().unwrap_or_default()),
            fault,
        ));
    }
    for (at, member) in spec.members.iter().enumerate() {
        if member.name.starts_with("system:") {
            errors.push(FieldError::invalid(
                format!("spec.members[{at}].name"),
                quoted(&member.name),
                "names that start with system: are the platform's",
            ));
        } else if let (MemberKind::ServiceAccount, Some(fault)) = (member.kind, common::name_fault(&member.name)) {
            errors.push(FieldError::invalid(format!("spec.members[{at}].name"), quoted(&member.name), fault));
        }
        if spec.members[..at].iter().any(|earlier| earlier.kind == member.kind && earlier.name == member.name) {
            errors.push(FieldError::duplicate(format!("spec.members[{at}].name"), &member.name));
        }
    }
    errors.extend(common::check_prompt("spec.prompt", spec.prompt.as_deref()));
    let defaults = &spec.session_defaults;
    errors.extend(common::check_resources("spec.sessionDefaults.resources", &defaults.resources));
    errors.extend(check_workspace_size("spec.sessionDefaults.workspaceSize", defaults.workspace_size.as_deref()));
    for (field, text) in [("cpu", &spec.quota.cpu), ("memory", &spec.quota.memory)] {
        if let Some(text) = text
            && let Err(bad) = crate::quantity::millis(text)
        {
            errors.push(FieldError::invalid(format!("spec.quota.{field}"), quoted(text), bad.to_string()));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_projects_are_refused_by_field() {
        let faults = |name: &str, spec: Value| -> Vec<String> {
            check(&json!({ "metadata": { "name": name }, "spec": spec }), None)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(faults("Web", json!({})).len(), 1);
        assert_eq!(
            faults(
                "web",
                json!({ "members": [{ "name": "ann", "role": "owner" }, { "name": "ann", "role": "viewer" }] })
            ),
            ["spec.members[1].name: Duplicate value: \"ann\""]
        );
        assert_eq!(faults("web", json!({ "members": [{ "name": "system:admin", "role": "owner" }] })).len(), 1);
        assert_eq!(
            faults("web", json!({ "members": [{ "name": "No Name", "kind": "ServiceAccount", "role": "owner" }] }))
                .len(),
            1
        );
        assert!(faults("web", json!({ "members": [{ "name": "Ann of Green Gables", "role": "owner" }] })).is_empty());
        assert_eq!(faults("web", json!({ "quota": { "cpu": "lots" } })).len(), 1);
        assert_eq!(
            faults("web", json!({ "sessionDefaults": { "timeout": "soon" } })),
            ["spec.sessionDefaults.timeout: Invalid value: \"soon\": must be seconds, or a span such as 90s or 1h30m"]
        );
        assert!(faults("web", json!({ "displayName": "Web", "quota": { "running": 3 } })).is_empty());
    }
}
