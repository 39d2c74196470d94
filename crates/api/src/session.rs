//! `Session`: one agent at work, in runs that are each executed at most once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::common::{self, CredentialGrant, EnvVar, Resources, quoted};
use crate::field::FieldError;
use crate::kind::{Column, Kind, Rules, Unknown};
use crate::names;
use crate::phase::Phase;
use crate::quantity;
use crate::span::Span;

/// A session asks for an agent to work on a prompt, in a sandbox of its own. What a run is made of (agent, command,
/// environment, credentials, resources, workspace) is taken when it starts; a change of it counts for the next run.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "mainstay.dev", version = "v1alpha1", kind = "Session", namespaced)]
#[kube(status = "SessionStatus", shortname = "sess", derive = "PartialEq", derive = "Default")]
#[serde(rename_all = "camelCase")]
pub struct SessionSpec {
    /// The Agent to run, in the same namespace; the project's default agent when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What to do; joined with the project's and the agent's prompt, it is user message 1, and then stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    pub prompt: Option<String>,
    /// Program and arguments in place of the agent's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub command: Vec<String>,
    /// Environment of the agent process, on top of the agent's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub env: Vec<EnvVar>,
    /// Credentials granted to this session, on top of the agent's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub credentials: Vec<CredentialGrant>,
    /// Limits of the sandbox; what is absent comes from the agent, then the project.
    #[serde(default)]
    pub resources: Resources,
    /// The directory that the agent works in.
    #[serde(default)]
    pub workspace: WorkspaceSpec,
    /// Longest life of a run, from its start; the project's when absent, 0 = none. While a run lives it can be shortened,
    /// and not raised above what `status.timeout` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Longest time without a message either way or a tool call; the project's or 24 h when absent, 0 = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactivity_timeout: Option<Span>,
    /// End the run when the agent has answered, instead of waiting for more messages.
    #[serde(default)]
    pub stop_on_finish: bool,
    /// What the session should be: running, or stopped.
    #[serde(default)]
    pub desired_state: DesiredState,
    /// Which run is asked for; a run number is executed at most once. `mainstay resume` adds one.
    #[serde(default = "first_run")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub run: u64,
}

const fn first_run() -> u64 {
    1
}

/// What a session should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    /// At work, until its agent finishes.
    #[default]
    Running,
    /// Stopped.
    Stopped,
}

/// The directory that an agent works in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceSpec {
    /// Its size, a real limit, such as `1Gi`; the project's or 1Gi when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// The workspace survives a stop and is there again in the next run.
    #[serde(default)]
    pub keep: bool,
    /// A ConfigMap whose keys appear as read-only files in `/mainstay/files`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<String>,
}

/// What is known of a session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// Where the session is in its life.
    #[serde(default)]
    pub phase: Phase,
    /// The run that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
    /// The generation of the spec that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the run was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// The longest life that the run's sandbox was started with, and holds even while the server is away; it may end
    /// earlier when `spec.timeout` or the project's is shortened. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The last message either way, or the end of the last tool call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity_time: Option<Time>,
    /// Why the run was stopped, or failed: `User`, `Timeout`, `Inactivity`, `Deleted`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_reason: Option<String>,
    /// The Pod of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The node of the run's Pod, or of the last one's: a workspace that is kept is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How many runs were started.
    #[serde(default)]
    pub attempts: u64,
    /// The agent's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Number of the last message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message: Option<u64>,
    /// In words: what the phase does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Size of a workspace when nobody says otherwise.
pub const DEFAULT_WORKSPACE_SIZE: &str = "1Gi";
/// Inactivity timeout when nobody says otherwise.
pub const DEFAULT_INACTIVITY_TIMEOUT: Span = Span::from_secs(24 * 3_600);

/// The row of this kind in the registry.
pub fn kind() -> Kind {
    Kind {
        group: crate::GROUP,
        version: crate::VERSION,
        kind: "Session",
        plural: "sessions",
        singular: "session",
        short_names: &["sess"],
        categories: &["mainstay"],
        namespaced: true,
        status: true,
        core: false,
        columns: COLUMNS,
        selectable: &["spec.agent", "status.phase"],
        schema: crate::schema::of::<Session>,
        unknown: Unknown::AsAsked,
        rules: Rules { on_create, check, check_status },
    }
}

const COLUMNS: &[Column] = &[
    Column { name: "Phase", kind: "string", path: "status.phase", priority: 0, description: "Where it is in its life" },
    Column { name: "Agent", kind: "string", path: "spec.agent", priority: 0, description: "The agent it runs" },
    Column { name: "Messages", kind: "integer", path: "status.lastMessage", priority: 0, description: "Last message" },
    Column { name: "Run", kind: "integer", path: "spec.run", priority: 1, description: "The run asked for" },
    Column {
        name: "Exit",
        kind: "integer",
        path: "status.exitCode",
        priority: 1,
        description: "The agent's exit code",
    },
    Column { name: "Pod", kind: "string", path: "status.pod", priority: 1, description: "The Pod of the run" },
    Column { name: "Reason", kind: "string", path: "status.stoppedReason", priority: 1, description: "Why it ended" },
];

fn on_create(object: &mut Value) {
    names::hold(object, names::SESSION_FINALIZER);
    let run = object["spec"]["run"].as_u64().unwrap_or_else(first_run);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".to_owned(), json!({ "phase": "Pending", "run": run, "attempts": 0 }));
    }
}

fn check(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = match SessionSpec::deserialize(&new["spec"]) {
        Ok(spec) => spec,
        Err(error) => return unreadable(&new["spec"], "spec", &error),
    };
    let mut errors = Vec::new();
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(fault) = common::label_fault(name).filter(|_| !name.is_empty()) {
        errors.push(FieldError::invalid("metadata.name", quoted(name), fault));
    } else if name.len() > 52 {
        errors.push(FieldError::invalid(
            "metadata.name",
            quoted(name),
            "must be at most 52 characters: its Pods add a run number",
        ));
    }
    for (path, reference) in [("spec.agent", &spec.agent), ("spec.workspace.files", &spec.workspace.files)] {
        if let Some(fault) = reference.as_deref().and_then(common::name_fault) {
            errors.push(FieldError::invalid(path, quoted(reference.as_deref().unwrap_or_default()), fault));
        }
    }
    errors.extend(common::check_prompt("spec.prompt", spec.prompt.as_deref()));
    errors.extend(check_command("spec.command", &spec.command));
    errors.extend(common::check_env("spec.env", &spec.env));
    errors.extend(common::check_resources("spec.resources", &spec.resources));
    errors.extend(common::check_grants("spec.credentials", &spec.credentials, &spec.env));
    errors.extend(check_workspace_size("spec.workspace.size", spec.workspace.size.as_deref()));
    errors.extend(old.into_iter().flat_map(|old| check_change(&spec, old)));
    errors
}

/// What can no longer be had: an earlier run, and what would be accepted and do nothing.
fn check_change(spec: &SessionSpec, old: &Value) -> Vec<FieldError> {
    let before = SessionSpec::deserialize(&old["spec"]).unwrap_or_default();
    let status = SessionStatus::deserialize(&old["status"]).unwrap_or_default();
    let mut errors = Vec::new();
    if spec.run < before.run {
        let detail = format!("must not go back: run {} was asked for already", before.run);
        errors.push(FieldError::invalid("spec.run", spec.run, detail));
    }
    let handed_over = status.attempts > 0 || status.conditions.iter().any(|condition| condition.type_ == "Blocked");
    if handed_over && spec.prompt != before.prompt {
        let detail = "it is user message 1 already; send another message, or start another session";
        errors.push(FieldError::forbidden("spec.prompt", detail));
    }
    let live = matches!(status.phase, Phase::Creating | Phase::Running | Phase::Stopping);
    // Whoever set it: the session, or the project that it was started in.
    if let Some(held) = status.timeout.filter(|held| live && held.limit().is_some())
        && spec.timeout != before.timeout
        && spec.timeout.and_then(Span::limit).is_none_or(|asked| Some(asked) > held.limit())
    {
        let detail = format!("the sandbox of the present run holds {held}; raise it when that has ended");
        errors.push(FieldError::forbidden("spec.timeout", detail));
    }
    errors
}

/// A program that is named must have a name, and no argument may hold a NUL.
pub(crate) fn check_command(path: &str, command: &[String]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if command.first().is_some_and(String::is_empty) {
        errors.push(FieldError::invalid(format!("{path}[0]"), "\"\"", "must name a program"));
    }
    for (at, word) in command.iter().enumerate().filter(|(_, word)| word.contains('\0')) {
        errors.push(FieldError::invalid(format!("{path}[{at}]"), quoted(word), "must not contain a NUL character"));
    }
    errors
}

/// What is wrong with the size of a workspace.
pub(crate) fn check_workspace_size(path: &str, size: Option<&str>) -> Option<FieldError> {
    let size = size?;
    match quantity::units(size) {
        Ok(bytes) if (1 << 20..=1 << 42).contains(&bytes) => None,
        Ok(_) => Some(FieldError::invalid(path, quoted(size), "must be between 1Mi and 4Ti")),
        Err(bad) => Some(FieldError::invalid(path, quoted(size), bad.to_string())),
    }
}

/// Of fields that the schema lets through and that still cannot be read, the spans are named one by one.
pub(crate) fn unreadable(parent: &Value, path: &str, error: &serde_json::Error) -> Vec<FieldError> {
    let wrong = |field: &&str| {
        let value = parent.get(*field).filter(|value| !value.is_null())?;
        let detail = "must be seconds, or a span such as 90s or 1h30m";
        Span::deserialize(value).is_err().then(|| FieldError::invalid(format!("{path}.{field}"), value, detail))
    };
    let spans: Vec<FieldError> = ["timeout", "inactivityTimeout"].iter().filter_map(wrong).collect();
    if spans.is_empty() { vec![FieldError::invalid(path, "object", error.to_string())] } else { spans }
}

fn check_status(new: &Value, old: &Value) -> Vec<FieldError> {
    // A status that is absent is one that begins.
    let phase_of = |object: &Value| object["status"]["phase"].as_str().and_then(Phase::parse).unwrap_or_default();
    let (after, before) = (phase_of(new), phase_of(old));
    let mut errors = Vec::new();
    if !before.may_become(after) {
        let detail = format!("a session that is {before} may not become {after}");
        errors.push(FieldError::invalid("status.phase", quoted(after.as_str()), detail));
    }
    // A run that was started would be started again if it were forgotten.
    for name in ["run", "attempts"] {
        let number_of = |object: &Value| object["status"][name].as_u64().unwrap_or(0);
        if number_of(new) < number_of(old) {
            let detail = format!("it may not fall from {}", number_of(old));
            errors.push(FieldError::invalid(format!("status.{name}"), number_of(new), detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
