//! Questions about the caller: who am I, may I, what may I. They are answered, not stored.

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::Identity;
use crate::body::Body;
use crate::content;
use crate::object;
use crate::rbac::Attributes;
use crate::respond;
use crate::server::ApiServer;
use crate::status::{ApiError, ApiResult};

/// The three reviews.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Review {
    /// `SelfSubjectReview`: who am I.
    Who,
    /// `SelfSubjectAccessReview`: may I do this.
    May,
    /// `SelfSubjectRulesReview`: what may I do in a namespace.
    Rules,
}

impl Review {
    /// The review behind a URL.
    pub(crate) fn of(group: &str, version: &str, plural: &str) -> Option<Self> {
        match (group, version, plural) {
            ("authentication.k8s.io", "v1", "selfsubjectreviews") => Some(Self::Who),
            ("authorization.k8s.io", "v1", "selfsubjectaccessreviews") => Some(Self::May),
            ("authorization.k8s.io", "v1", "selfsubjectrulesreviews") => Some(Self::Rules),
            _ => None,
        }
    }

    const fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Who => ("authentication.k8s.io/v1", "SelfSubjectReview"),
            Self::May => ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
            Self::Rules => ("authorization.k8s.io/v1", "SelfSubjectRulesReview"),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
struct Question {
    resource_attributes: Option<Deed>,
    non_resource_attributes: Option<NonResource>,
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
struct Deed {
    namespace: String,
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
struct NonResource {
    path: String,
    verb: String,
}

/// Answers `POST`.
///
/// # Errors
/// 400 for a question that makes no sense.
pub(crate) async fn answer(
    server: &ApiServer,
    parts: &Parts,
    review: Review,
    identity: &Identity,
    body: Bytes,
) -> ApiResult<Response<Body>> {
    let parsed = if body.is_empty() { json!({}) } else { content::parse_fields(&parts.headers, &body, "a review")? };
    let (version, kind) = review.kind();
    for (field, expected) in [("apiVersion", version), ("kind", kind)] {
        if parsed.get(field).is_some_and(|found| found != expected) {
            return Err(ApiError::bad_request(format!(
                "the {field} in the data does not match the expected {expected:?}"
            )));
        }
    }
    let spec = &parsed["spec"];
    let status = match review {
        Review::Who => json!({ "userInfo": user_info(identity) }),
        Review::May => may(server, identity, &read(spec)?).await?,
        Review::Rules => rules(server, identity, &read(spec)?.namespace).await?,
    };
    let mut answer = json!({"kind": kind, "apiVersion": version, "metadata": {}, "status": status});
    if review != Review::Who {
        answer["spec"] = spec.clone();
    }
    Ok(respond::json(StatusCode::CREATED, object::to_bytes(&answer)?))
}

fn read(spec: &Value) -> ApiResult<Question> {
    Question::deserialize(spec).map_err(|error| ApiError::bad_request(format!("spec: {error}")))
}

fn user_info(identity: &Identity) -> Value {
    let mut info = json!({"username": identity.user(), "groups": identity.groups()});
    if !identity.uid().is_empty() {
        info["uid"] = identity.uid().into();
    }
    if !identity.extra().is_empty() {
        info["extra"] = json!(identity.extra());
    }
    info
}

async fn may(server: &ApiServer, identity: &Identity, spec: &Question) -> ApiResult<Value> {
    let attributes = match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(asked), None) => Attributes {
            verb: &asked.verb,
            group: &asked.group,
            resource: &asked.resource,
            subresource: &asked.subresource,
            namespace: &asked.namespace,
            name: &asked.name,
            node: "",
            path: "",
        },
        (None, Some(asked)) => Attributes { verb: &asked.verb, path: &asked.path, ..Attributes::default() },
        _ => {
            return Err(ApiError::bad_request(
                "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    Ok(json!({ "allowed": server.access().allows(identity, &attributes).await? }))
}

async fn rules(server: &ApiServer, identity: &Identity, namespace: &str) -> ApiResult<Value> {
    if namespace.is_empty() {
        return Err(ApiError::bad_request("spec.namespace: no namespace on request"));
    }
    let held = server
        .access()
        .authorizer
        .rules_for(identity, namespace)
        .await
        .map_err(|error| ApiError::unavailable(format!("the caller's rights cannot be read: {error}")))?;
    let (resources, paths): (Vec<_>, Vec<_>) = held.rules.iter().partition(|rule| rule.non_resource_urls.is_empty());
    Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": held.incomplete}))
}
