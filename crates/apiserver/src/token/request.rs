//! The TokenRequest subresource of service accounts: its body in, its answer out.

use std::time::Duration;

use mainstay_api::{Fault, FieldError};
use serde_json::{Value, json};

use super::{AUDIENCE, BoundKind, Issued, TokenError};

/// Seconds of life when the request names none.
pub const DEFAULT_SECONDS: i64 = 900;
const SECONDS: std::ops::RangeInclusive<i64> = 600..=3600;
/// No token lives longer.
pub(crate) const LONGEST: Duration = Duration::from_hours(1);
const MAX_AUDIENCES: usize = 8;
const MAX_AUDIENCE_BYTES: usize = 256;

/// What is asked for; made by [`TokenRequest::from_body`], so always within bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) audiences: Vec<String>,
    pub(super) seconds: i64,
    pub(super) bound: Option<BoundRef>,
}

/// The object that a token is to be bound to, in the service account's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundRef {
    /// Its kind.
    pub kind: BoundKind,
    /// Its name.
    pub name: String,
    /// Its uid, if the caller knows it.
    pub uid: Option<String>,
}

impl TokenRequest {
    /// Reads the body of `POST .../serviceaccounts/NAME/token`.
    ///
    /// # Errors
    /// [`TokenError::Request`] with every field that is wrong.
    pub fn from_body(namespace: &str, service_account: &str, body: &Value) -> Result<Self, TokenError> {
        let mut wrong = Vec::new();
        let spec = &body["spec"];
        if !matches!(spec, Value::Null | Value::Object(_)) {
            wrong.push(FieldError::new("spec", Fault::TypeInvalid, "must be an object"));
        }
        if !body["metadata"]["name"].is_null() && body["metadata"]["name"] != service_account {
            wrong.push(FieldError::invalid(
                "metadata.name",
                &body["metadata"]["name"],
                "must be the service account's",
            ));
        }
        let audiences = audiences(&spec["audiences"], &mut wrong);
        let seconds = seconds(&spec["expirationSeconds"], &mut wrong);
        let bound = bound(&spec["boundObjectRef"], &mut wrong);
        if wrong.is_empty() {
            let (namespace, service_account) = (namespace.to_owned(), service_account.to_owned());
            Ok(Self { namespace, service_account, audiences, seconds, bound })
        } else {
            Err(TokenError::Request(wrong))
        }
    }

    /// What the token is to be bound to.
    pub fn bound(&self) -> Option<&BoundRef> {
        self.bound.as_ref()
    }

    /// The namespace of the service account.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The answer to this request.
    pub fn answer(&self, issued: &Issued) -> Value {
        let bound = self.bound.as_ref().map(|bound| {
            let version = if bound.kind == BoundKind::Session { "mainstay.dev/v1alpha1" } else { "v1" };
            let mut reference = json!({"apiVersion": version, "kind": bound.kind, "name": bound.name});
            if let Some(uid) = &bound.uid {
                reference["uid"] = uid.as_str().into();
            }
            reference
        });
        let mut spec = json!({"audiences": issued.audiences, "expirationSeconds": self.seconds});
        if let Some(bound) = bound {
            spec["boundObjectRef"] = bound;
        }
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"namespace": self.namespace, "name": self.service_account},
            "spec": spec,
            "status": {"token": issued.token.as_str(), "expirationTimestamp": issued.expires.to_string()},
        })
    }
}

fn audiences(value: &Value, wrong: &mut Vec<FieldError>) -> Vec<String> {
    const PATH: &str = "spec.audiences";
    let Some(items) = value.as_array() else {
        if !value.is_null() {
            wrong.push(FieldError::new(PATH, Fault::TypeInvalid, "must be an array of strings"));
        }
        return vec![AUDIENCE.to_owned()];
    };
    if items.len() > MAX_AUDIENCES {
        wrong.push(FieldError::new(PATH, Fault::TooMany, format!("must have at most {MAX_AUDIENCES} items")));
        return Vec::new();
    }
    let mut audiences = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item.as_str() {
            Some(text) if !text.is_empty() && text.len() <= MAX_AUDIENCE_BYTES => audiences.push(text.to_owned()),
            _ => wrong.push(FieldError::invalid(format!("{PATH}[{index}]"), item, "must be a short string")),
        }
    }
    if audiences.is_empty() { vec![AUDIENCE.to_owned()] } else { audiences }
}

fn seconds(value: &Value, wrong: &mut Vec<FieldError>) -> i64 {
    const PATH: &str = "spec.expirationSeconds";
    if value.is_null() {
        return DEFAULT_SECONDS;
    }
    match value.as_i64() {
        Some(seconds) if SECONDS.contains(&seconds) => seconds,
        _ => {
            let detail = format!("must be an integer from {} to {}", SECONDS.start(), SECONDS.end());
            wrong.push(FieldError::invalid(PATH, value, detail));
            DEFAULT_SECONDS
        }
    }
}

fn bound(value: &Value, wrong: &mut Vec<FieldError>) -> Option<BoundRef> {
    const PATH: &str = "spec.boundObjectRef";
    if value.is_null() {
        return None;
    }
    let text = |field: &str| value[field].as_str().filter(|text| !text.is_empty() && text.len() <= 253);
    let kind = match (text("apiVersion"), text("kind")) {
        (Some("mainstay.dev/v1alpha1"), Some("Session")) => Some(BoundKind::Session),
        (Some("v1"), Some("Pod")) => Some(BoundKind::Pod),
        (Some("v1"), Some("Secret")) => Some(BoundKind::Secret),
        _ => None,
    };
    if kind.is_none() {
        let detail = "must be a Session of mainstay.dev/v1alpha1, or a Pod or Secret of v1";
        wrong.push(FieldError::invalid(format!("{PATH}.kind"), &value["kind"], detail));
    }
    if text("name").is_none() {
        wrong.push(FieldError::required(format!("{PATH}.name"), "name the object"));
    }
    let uid = text("uid").map(str::to_owned);
    if uid.is_none() && !value["uid"].is_null() {
        wrong.push(FieldError::invalid(format!("{PATH}.uid"), &value["uid"], "must be a uid"));
    }
    Some(BoundRef { kind: kind?, name: text("name")?.to_owned(), uid })
}
