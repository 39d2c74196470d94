//! `Credential`: a secret for a service outside, granted to sessions by name.
//!
//! `spec.token` is write-only: it is sealed at rest and no read returns it. `status.tokenSet` says whether there is one.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::common::quoted;
use crate::field::FieldError;
use crate::kind::{Column, Kind, Rules, Unknown};

/// A secret for a service outside.
#[derive(CustomResource, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "mainstay.dev", version = "v1alpha1", kind = "Credential", namespaced)]
#[kube(status = "CredentialStatus", shortname = "cred", shortname = "creds", derive = "PartialEq", derive = "Default")]
#[serde(rename_all = "camelCase")]
pub struct CredentialSpec {
    /// The service: `github`, `gitlab`, `jira`, `google`, `anthropic`, ... any word.
    #[schemars(length(min = 1, max = 63))]
    pub provider: String,
    /// Where the service is, when it is not the provider's public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2_048))]
    pub url: Option<String>,
    /// The account, where the service asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 254))]
    pub email: Option<String>,
    /// What it is for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The secret. Write-only: absent in every answer; leaving it out of a write keeps the stored one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65_536))]
    pub token: Option<String>,
}

impl std::fmt::Debug for CredentialSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialSpec")
            .field("provider", &self.provider)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// What is known of a credential.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// A token is stored.
    #[serde(default)]
    pub token_set: bool,
}

/// The row of this kind in the registry.
pub fn kind() -> Kind {
    Kind {
        group: crate::GROUP,
        version: crate::VERSION,
        kind: "Credential",
        plural: "credentials",
        singular: "credential",
        short_names: &["cred", "creds"],
        categories: &["mainstay"],
        namespaced: true,
        status: true,
        core: false,
        columns: COLUMNS,
        selectable: &["spec.provider"],
        schema: crate::schema::of::<Credential>,
        unknown: Unknown::AsAsked,
        rules: Rules { on_create, check, ..Rules::NONE },
    }
}

const COLUMNS: &[Column] = &[
    Column { name: "Provider", kind: "string", path: "spec.provider", priority: 0, description: "The service" },
    Column { name: "Token", kind: "boolean", path: "status.tokenSet", priority: 0, description: "A token is stored" },
    Column { name: "URL", kind: "string", path: "spec.url", priority: 1, description: "Where the service is" },
    Column { name: "Email", kind: "string", path: "spec.email", priority: 1, description: "The account" },
];

fn on_create(object: &mut Value) {
    let set = object["spec"]["token"].is_string();
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".to_owned(), json!({ "tokenSet": set }));
    }
}

fn check(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let text = |field: &str| new["spec"][field].as_str();
    let blank = |text: &&str| text.contains(|c: char| c.is_whitespace() || c.is_control());
    if let Some(url) = text("url").filter(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
        errors.push(FieldError::invalid("spec.url", quoted(url), "must start with https:// or http://"));
    } else if let Some(url) = text("url").filter(blank) {
        errors.push(FieldError::invalid("spec.url", quoted(url), "must not contain blanks or control characters"));
    }
    if let Some(email) = text("email").filter(|email| !email.contains('@')) {
        errors.push(FieldError::invalid("spec.email", quoted(email), "must contain '@'"));
    } else if let Some(email) = text("email").filter(blank) {
        errors.push(FieldError::invalid("spec.email", quoted(email), "must not contain blanks or control characters"));
    }
    // The value of a secret is never shown, not even a wrong one.
    if text("token").is_some_and(|token| token.contains('\0')) {
        errors.push(FieldError::new("spec.token", crate::Fault::Invalid, "must not contain a NUL character"));
    }
    errors
}
