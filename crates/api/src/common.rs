//! Parts that several kinds share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::field::FieldError;
use crate::quantity;

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name: letters, digits and `_`, not starting with a digit. Names that start with `MAINSTAY_` are the platform's.
    pub name: String,
    /// Value, taken as it is.
    #[serde(default)]
    pub value: String,
}

/// What a sandbox may use at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Cores, such as `500m` or `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Bytes of memory, such as `512Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 4_194_304))]
    pub pids: Option<u64>,
}

impl Resources {
    /// Field by field, ours before the other's.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            cpu: self.cpu.clone().or_else(|| other.cpu.clone()),
            memory: self.memory.clone().or_else(|| other.memory.clone()),
            pids: self.pids.or(other.pids),
        }
    }
}

/// A credential that a session is granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialGrant {
    /// Name of the Credential, in the same namespace. Its files appear in `/mainstay/credentials/NAME`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Also hand the token over in this environment variable. Files are safer: the environment is inherited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
}

/// How the supervisor talks to the agent process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Adaptor {
    /// Lines of text each way.
    #[default]
    Exec,
    /// One JSON event per line each way, as agent CLIs offer.
    StreamJson,
}

impl Adaptor {
    /// The word in JSON and in the Pod's annotation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::StreamJson => "stream-json",
        }
    }
}

/// What is wrong with environment variables.
pub fn check_env(path: &str, env: &[EnvVar]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, var) in env.iter().enumerate() {
        let name = format!("{path}[{at}].name");
        if let Some(detail) = env_name_fault(&var.name) {
            errors.push(FieldError::invalid(name, quoted(&var.name), detail));
        } else if env[..at].iter().any(|earlier| earlier.name == var.name) {
            errors.push(FieldError::duplicate(name, &var.name));
        }
        // Not shown: it may be a secret.
        if var.value.contains('\0') {
            errors.push(no_nul(format!("{path}[{at}].value")));
        }
    }
    errors
}

/// Bytes of a prompt as JSON writes it: a project's, an agent's and a session's together fit in one message.
pub(crate) const MOST_PROMPT: usize = 1 << 18;

/// What is wrong with a prompt.
pub(crate) fn check_prompt(path: &str, prompt: Option<&str>) -> Option<FieldError> {
    let bytes = quoted(prompt?).len() - 2;
    let detail = || format!("may not be more than {MOST_PROMPT} bytes as JSON writes it, and is {bytes}");
    (bytes > MOST_PROMPT).then(|| FieldError::new(path, crate::Fault::TooLong, detail()))
}

/// A text that reaches a process as argument or environment ends at a NUL character.
pub(crate) fn no_nul(path: impl Into<String>) -> FieldError {
    FieldError::new(path, crate::Fault::Invalid, "must not contain a NUL character")
}

/// What is wrong with the name of an environment variable.
pub fn env_name_fault(name: &str) -> Option<&'static str> {
    let first_ok = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !first_ok || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Some("must be letters, digits and '_', not starting with a digit");
    }
    name.starts_with("MAINSTAY_").then_some("names that start with MAINSTAY_ are set by the platform")
}

/// What is wrong with resources.
pub fn check_resources(path: &str, resources: &Resources) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut check = |field: &str, text: &Option<String>, least: u64, most: u64, range: &str| {
        let Some(text) = text else { return };
        match quantity::millis(text) {
            Ok(millis) if (least..=most).contains(&millis) => {}
            Ok(_) => errors.push(FieldError::invalid(format!("{path}.{field}"), quoted(text), range)),
            Err(bad) => errors.push(FieldError::invalid(format!("{path}.{field}"), quoted(text), bad.to_string())),
        }
    };
    check("cpu", &resources.cpu, 10, 1_024_000, "must be between 10m and 1024");
    check("memory", &resources.memory, (8 << 20) * 1_000, (1 << 40) * 1_000, "must be between 8Mi and 1Ti");
    errors
}

/// What is wrong with granted credentials, given the variables that are set beside them.
pub fn check_grants(path: &str, grants: &[CredentialGrant], env: &[EnvVar]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, grant) in grants.iter().enumerate() {
        if let Some(fault) = name_fault(&grant.name) {
            errors.push(FieldError::invalid(format!("{path}[{at}].name"), quoted(&grant.name), fault));
        }
        if let Some(name) = &grant.token_env {
            let taken = grants[..at].iter().any(|earlier| earlier.token_env.as_ref() == Some(name))
                || env.iter().any(|var| var.name == *name);
            let path = format!("{path}[{at}].tokenEnv");
            if let Some(fault) = env_name_fault(name) {
                errors.push(FieldError::invalid(path, quoted(name), fault));
            } else if taken {
                errors.push(FieldError::duplicate(path, name));
            }
        }
        if grants[..at].iter().any(|earlier| earlier.name == grant.name) {
            errors.push(FieldError::duplicate(format!("{path}[{at}].name"), &grant.name));
        }
    }
    errors
}

/// What is wrong with a name that must be a DNS label (RFC 1123, at most 63 characters).
pub fn label_fault(name: &str) -> Option<&'static str> {
    let ok = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    (!ok).then_some("must be at most 63 lower-case letters, digits and '-', starting and ending with a letter or digit")
}

/// What is wrong with a name that must be a DNS subdomain (RFC 1123, at most 253 characters).
pub fn name_fault(name: &str) -> Option<&'static str> {
    let part_ok = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    (name.len() > 253 || !name.split('.').all(part_ok)).then_some(
        "must be at most 253 lower-case letters, digits, '-' and '.', starting and ending with a letter or digit",
    )
}

/// A string as JSON shows it.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
