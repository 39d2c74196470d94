//! Session tokens: fetched from the API, put in place by rename, so that the supervisor reads the old one or the new.
//!
//! R42: a token is bound to the one session, for our audience, and lives a quarter of an hour. A failed renewal leaves
//! the old one in place and is tried again.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};
use mainstay_runtime::client::bounded;
use mainstay_runtime::{Class, Classify, Reason};
use serde::Deserialize;

use super::error::{AgentError, While};
use crate::launch::SessionRef;

/// Whom session tokens are for.
const AUDIENCE: &str = "mainstay";
/// How long one lives.
const LIFE_SECONDS: i64 = 900;
/// The service account that a session's token speaks for.
const ACCOUNT: &str = "default";

/// What a token says of itself; not verified here.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Claims {
    /// Issued at, in seconds since the epoch.
    #[serde(default)]
    pub(crate) iat: i64,
    /// Expires at.
    #[serde(default)]
    pub(crate) exp: i64,
    /// Whom it speaks for.
    #[serde(rename = "mainstay.dev", default)]
    ours: Option<Ours>,
}

#[derive(Debug, Clone, Deserialize)]
struct Ours {
    #[serde(default)]
    bound: Option<Bound>,
}

#[derive(Debug, Clone, Deserialize)]
struct Bound {
    kind: String,
    uid: String,
}

impl Claims {
    /// Reads the payload of a JWT.
    pub(crate) fn read(token: &str) -> Option<Self> {
        let mut parts = token.trim().split('.');
        let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// The uid of the session that it is bound to.
    pub(crate) fn session(&self) -> Option<&str> {
        let bound = self.ours.as_ref()?.bound.as_ref()?;
        (bound.kind == "Session").then_some(bound.uid.as_str())
    }

    /// Less than half of its life is left.
    pub(crate) fn is_half_spent(&self, now: i64) -> bool {
        now.saturating_sub(self.iat) > self.exp.saturating_sub(self.iat) / 2
    }
}

/// Asks the API for a token of this session.
///
/// R2: the service account may be made any moment, by the namespace's controller; the deadline of the session's creation
/// bounds the wait. A session that is gone takes its Pod along.
pub(crate) async fn fetch(client: &Client, namespace: &str, session: &SessionRef) -> Result<String, AgentError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            expiration_seconds: Some(LIFE_SECONDS),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some(format!("{}/{}", mainstay_api::GROUP, mainstay_api::VERSION)),
                kind: Some("Session".to_owned()),
                name: Some(session.name.clone()),
                uid: Some(session.uid.clone()),
            }),
        },
        ..Default::default()
    };
    let doing = format!("request a token for session {}", session.name);
    let params = PostParams::default();
    let answer = match bounded(accounts.create_token_request(ACCOUNT, &params, &request)).await {
        Err(source) if source.class() == Class::Terminal(Reason::NotFound) => {
            return Err(AgentError::NotYet { doing: doing.into(), source });
        }
        answer => answer.during(doing.clone())?,
    };
    let token = answer.status.map(|status| status.token).filter(|token| !token.is_empty());
    token.ok_or_else(|| AgentError::Refused(format!("{doing}: the answer holds none")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A token with these claims and no signature to speak of.
    pub(crate) fn forged(claims: &serde_json::Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn claims_are_read_and_rubbish_is_not() {
        let bound = serde_json::json!({ "bound": { "kind": "Session", "name": "fix", "uid": "s-1" } });
        let token = forged(&serde_json::json!({ "iat": 1_000, "exp": 1_900, "mainstay.dev": bound }));
        let claims = Claims::read(&token).unwrap();
        assert_eq!(claims.session(), Some("s-1"));
        assert!(!claims.is_half_spent(1_400) && claims.is_half_spent(1_451));
        for wrong in ["", "a", "a.b", "a.b.c", "e30.e30.c2ln.x", &format!("x{}", "y".repeat(100))] {
            assert!(Claims::read(wrong).is_none(), "{wrong}");
        }
        assert_eq!(Claims::read("e30.e30.c2ln").unwrap().session(), None);
    }
}
