//! Who is calling and what they may do, as the rest of the server asks it.

use http::request::Parts;
use mainstay_runtime::{Class, Classify};
use std::sync::Arc;

use crate::auth::{AuthError, Authenticator, Identity};
use crate::keys::Keys;
use crate::rbac::guard::Change;
use crate::rbac::{Attributes, Authorizer, Decision};
use crate::server::Call;
use crate::status::{About, ApiError, ApiResult};
use crate::token::{TokenRequest, Tokens};

/// Authentication and authorisation of one server.
#[derive(Debug, Clone)]
pub struct Access {
    /// Finds out who is calling.
    pub authenticator: Arc<Authenticator>,
    /// Decides what they may do.
    pub authorizer: Authorizer,
    /// Issues tokens.
    pub tokens: Arc<Tokens>,
}

impl Access {
    /// The keys of the installation.
    pub(crate) fn keys(&self) -> &Keys {
        self.authenticator.keys()
    }

    /// The caller of a request from outside.
    ///
    /// # Errors
    /// 401, or 503 when it could not be found out.
    pub(crate) async fn authenticate(&self, parts: &Parts) -> ApiResult<Identity> {
        self.authenticator.authenticate(parts).await.map_err(|error| refused(&error))
    }

    /// Whether the caller may write what it writes.
    ///
    /// # Errors
    /// 403, or 503 when it could not be found out.
    pub(crate) async fn admit(&self, call: &Call<'_>, change: &Change<'_>) -> ApiResult<()> {
        decided(self.authorizer.admit(call.identity, change).await, call.about(call.name()))
    }

    /// Whether the caller may have this token.
    ///
    /// # Errors
    /// 403, or 503 when it could not be found out.
    pub(crate) async fn admit_token(&self, call: &Call<'_>, request: &TokenRequest) -> ApiResult<()> {
        decided(self.authorizer.admit_token(call.identity, request).await, call.about(call.name()))
    }

    /// Whether the caller may do this.
    ///
    /// # Errors
    /// 503 when it could not be found out.
    pub(crate) async fn allows(&self, identity: &Identity, attributes: &Attributes<'_>) -> ApiResult<bool> {
        match self.authorizer.authorize(identity, attributes).await {
            Decision::Allow(_) => Ok(true),
            Decision::Deny(reason) => {
                tracing::debug!(user = identity.user(), ?attributes, reason, "denied");
                Ok(false)
            }
            Decision::Unavailable(error) => {
                Err(ApiError::unavailable(format!("the caller's rights cannot be read: {error}")))
            }
        }
    }
}

fn decided(decision: Decision, about: About<'_>) -> ApiResult<()> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) => Err(ApiError::forbidden(about, reason)),
        Decision::Unavailable(error) => {
            Err(ApiError::unavailable(format!("the caller's rights cannot be read: {error}")))
        }
    }
}

fn refused(error: &AuthError) -> ApiError {
    match error.class() {
        Class::Transient { .. } | Class::Indeterminate => {
            ApiError::unavailable(format!("the caller cannot be verified: {error}"))
        }
        Class::Conflict | Class::Fenced | Class::Terminal(_) => ApiError::unauthorized(error.to_string()),
    }
}
