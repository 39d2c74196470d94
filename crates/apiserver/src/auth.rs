//! Who is calling over a socket: the admin token, or a service-account token; everyone else is refused.
//!
//! Callers in this process are handed to the server with their identity, which no request can carry. There is no
//! anonymous identity. The paths that need none are named by [`is_open`].

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;
use mainstay_runtime::{Class, Classify, Reason};

use crate::keys::{ADMIN_TOKEN_PREFIX, Keys};
use crate::token::{TokenError, Tokens};

pub mod identity;

#[cfg(test)]
mod tests;

pub use identity::{Identity, SessionBinding};

/// Longer credentials are not looked at.
const MAX_TOKEN: usize = 8 * 1024;

/// Whether a path is served to anyone: health and version, which say nothing of what is stored.
pub fn is_open(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/healthz" | "/version")
}

/// The caller is not known: 401, or 503 when it could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credentials.
    #[error("no credentials were given; send \"Authorization: Bearer TOKEN\"")]
    Missing,
    /// Credentials in a form that is not offered.
    #[error("the Authorization header is not understood: {0}")]
    Malformed(&'static str),
    /// Acting as somebody else is not offered.
    #[error("impersonation is not offered; remove the Impersonate-* headers")]
    Impersonation,
    /// A token that is not valid.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Classify for AuthError {
    fn class(&self) -> Class {
        match self {
            Self::Missing | Self::Malformed(_) | Self::Impersonation => Class::Terminal(Reason::Unauthorized),
            Self::Token(error) => error.class(),
        }
    }
}

/// Finds out who is calling.
#[derive(Debug, Clone)]
pub struct Authenticator {
    keys: Arc<Keys>,
    tokens: Arc<Tokens>,
    admin: Identity,
}

impl Authenticator {
    /// Accepts the admin token of `keys`, and the tokens that `tokens` issued.
    pub fn new(keys: Arc<Keys>, tokens: Arc<Tokens>) -> Self {
        Self { keys, tokens, admin: Identity::admin() }
    }

    /// The keys that it goes by.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The caller of a request.
    ///
    /// # Errors
    /// Every [`AuthError`] is a 401, save those of class Transient and Indeterminate.
    pub async fn authenticate(&self, request: &Parts) -> Result<Identity, AuthError> {
        let token = bearer(request)?;
        // Nobody may take a request for another's that it was not made as.
        if request.headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            return Err(AuthError::Impersonation);
        }
        if token.starts_with(ADMIN_TOKEN_PREFIX) && self.keys.is_admin_token(token) {
            return Ok(self.admin.clone());
        }
        Ok(self.tokens.verify(token).await?)
    }
}

fn bearer(request: &Parts) -> Result<&str, AuthError> {
    let mut headers = request.headers.get_all(AUTHORIZATION).iter();
    let header = headers.next().ok_or(AuthError::Missing)?;
    if headers.next().is_some() {
        return Err(AuthError::Malformed("it is given more than once"));
    }
    if header.len() > MAX_TOKEN {
        return Err(AuthError::Malformed("it is too long"));
    }
    let text = header.to_str().map_err(|_| AuthError::Malformed("it is not ASCII"))?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthError::Malformed("expected \"Bearer TOKEN\""))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(AuthError::Malformed("only the scheme Bearer is offered"));
    }
    let token = token.trim();
    if token.is_empty() { Err(AuthError::Malformed("the token is empty")) } else { Ok(token) }
}
