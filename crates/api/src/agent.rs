//! `Agent`: a program and its standing instructions, for sessions to run.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::common::{self, Adaptor, CredentialGrant, EnvVar, Resources};
use crate::field::FieldError;
use crate::kind::{Column, Kind, Rules, Unknown};
use crate::session::check_command;

/// An agent: what a session runs.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "Agent",
    namespaced,
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct AgentSpec {
    /// What it is for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Standing instructions, put before the session's prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    pub prompt: Option<String>,
    /// The program to run, with leading arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub command: Vec<String>,
    /// More arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
    /// How the supervisor talks to it.
    #[serde(default)]
    pub adaptor: Adaptor,
    /// Its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub env: Vec<EnvVar>,
    /// The model that it should use; reaches it as `MAINSTAY_MODEL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Limits of its sandbox; what is absent comes from the project.
    #[serde(default)]
    pub resources: Resources,
    /// Credentials that every session of this agent is granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub credentials: Vec<CredentialGrant>,
}

/// The row of this kind in the registry.
pub fn kind() -> Kind {
    Kind {
        group: crate::GROUP,
        version: crate::VERSION,
        kind: "Agent",
        plural: "agents",
        singular: "agent",
        short_names: &[],
        categories: &["mainstay"],
        namespaced: true,
        status: false,
        core: false,
        columns: COLUMNS,
        selectable: &[],
        schema: crate::schema::of::<Agent>,
        unknown: Unknown::AsAsked,
        rules: Rules { check, ..Rules::NONE },
    }
}

const COLUMNS: &[Column] = &[
    Column { name: "Adaptor", kind: "string", path: "spec.adaptor", priority: 0, description: "How we talk to it" },
    Column { name: "Model", kind: "string", path: "spec.model", priority: 0, description: "The model it should use" },
    Column {
        name: "Description",
        kind: "string",
        path: "spec.description",
        priority: 1,
        description: "What it is for",
    },
];

fn check(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let spec = match AgentSpec::deserialize(&new["spec"]) {
        Ok(spec) => spec,
        Err(error) => return vec![FieldError::invalid("spec", "object", error.to_string())],
    };
    let mut errors = check_command("spec.command", &spec.command);
    errors.extend(check_command("spec.args", &spec.args).into_iter().filter(|error| error.path != "spec.args[0]"));
    if spec.command.is_empty() && !spec.args.is_empty() {
        errors.push(FieldError::forbidden("spec.args", "arguments need a spec.command"));
    }
    errors.extend(common::check_prompt("spec.prompt", spec.prompt.as_deref()));
    errors.extend(common::check_env("spec.env", &spec.env));
    errors.extend(common::check_resources("spec.resources", &spec.resources));
    errors.extend(common::check_grants("spec.credentials", &spec.credentials, &spec.env));
    if spec.model.as_deref().is_some_and(|model| model.contains('\0')) {
        errors.push(common::no_nul("spec.model"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_without_a_program_are_refused() {
        let object = json!({ "spec": { "args": ["-v"] } });
        assert_eq!(check(&object, None)[0].to_string(), "spec.args: Forbidden: arguments need a spec.command");
        assert!(check(&json!({ "spec": { "command": ["sh"], "args": ["-v", ""] } }), None).is_empty());
    }
}
