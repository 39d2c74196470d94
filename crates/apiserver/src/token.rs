//! Service-account tokens: ES256 JWTs, short-lived, for an audience, bound to an object and dead with it.
//!
//! A valid signature is not enough: at each use the service account and the bound object must still exist with the
//! uids in the token, and a session's run must be the one that the token was issued in, and not over. Signatures are
//! verified once and remembered; the rest costs two look-ups in memory.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mainstay_api::FieldError;
use mainstay_runtime::{Class, Classify, Clock, Reason, Timestamp};
use mainstay_store::{Key, StoreError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::auth::identity::{Identity, SessionBinding};
use crate::keys::{Keys, KeysError};

mod cache;
pub mod request;
pub(crate) mod signer;
pub mod subjects;

#[cfg(test)]
mod tests;

pub use request::{BoundRef, TokenRequest};
pub use subjects::{StoreSubjects, Subject, Subjects};

/// The audience of this API.
pub const AUDIENCE: &str = "mainstay";
const ISSUER: &str = "https://mainstay";
/// A not-before time may lie this far ahead.
const LEEWAY_SECONDS: i64 = 5;
/// Longer tokens are refused unread.
const MAX_TOKEN: usize = 8 * 1024;

pub(crate) const SESSIONS: &str = "mainstay.dev/sessions";
pub(crate) const SERVICE_ACCOUNTS: &str = "/serviceaccounts";

/// A token is not valid, or cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this server.
    #[error("the token is not valid for this server")]
    NotOurs,
    /// For another audience.
    #[error("the token is for another audience")]
    Audience,
    /// Too late.
    #[error("the token has expired")]
    Expired,
    /// Too early.
    #[error("the token is not valid yet")]
    NotYet,
    /// Its service account or the object it is bound to is gone, or its session's run is over.
    #[error("the token is no longer valid: {0}")]
    Revoked(&'static str),
    /// What was asked for cannot be issued.
    #[error("the token request is not valid")]
    Request(Vec<FieldError>),
    /// What the token should speak for does not exist.
    #[error("{0} not found")]
    NotFound(String),
    /// The signing key cannot be used.
    #[error("the token-signing key cannot be used")]
    Key,
    /// No random numbers.
    #[error("no token could be made")]
    Keys(#[from] KeysError),
    /// Whether the token is still good cannot be found out.
    #[error("the token could not be checked")]
    Store(#[from] StoreError),
}

impl Classify for TokenError {
    fn class(&self) -> Class {
        match self {
            Self::NotOurs | Self::Audience | Self::Expired | Self::NotYet | Self::Revoked(_) => {
                Class::Terminal(Reason::Unauthorized)
            }
            Self::Request(_) => Class::Terminal(Reason::Invalid),
            Self::NotFound(_) => Class::Terminal(Reason::NotFound),
            Self::Key => Class::Terminal(Reason::Corrupt),
            Self::Keys(error) => error.class(),
            Self::Store(error) => error.class(),
        }
    }
}

/// A new token.
pub struct Issued {
    /// The token.
    pub token: Zeroizing<String>,
    /// When it expires.
    pub expires: Timestamp,
    /// Whom it is for.
    pub audiences: Vec<String>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("expires", &self.expires).finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: String,
    #[serde(rename = "mainstay.dev")]
    ours: Ours,
}

#[derive(Debug, Serialize, Deserialize)]
struct Ours {
    namespace: String,
    serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bound: Option<Bound>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Bound {
    kind: BoundKind,
    name: String,
    uid: String,
    /// The session's run at the time of issue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<u64>,
}

/// What a token can be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BoundKind {
    /// A session: the token may use this session only.
    Session,
    /// A Pod.
    Pod,
    /// A Secret: deleting it revokes the token.
    Secret,
}

impl BoundKind {
    const fn resource(self) -> &'static str {
        match self {
            Self::Session => SESSIONS,
            Self::Pod => "/pods",
            Self::Secret => "/secrets",
        }
    }
}

/// A token whose signature was verified.
#[derive(Debug)]
struct Known {
    /// Of the key that signed it.
    version: u64,
    claims: Claims,
    identity: Identity,
}

/// Issues and verifies tokens.
pub struct Tokens {
    keys: Keys,
    subjects: Arc<dyn Subjects>,
    clock: Clock,
    known: cache::Cache<Arc<Known>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

/// A new signing key, as PKCS #8.
pub(crate) fn generate_key() -> Result<Zeroizing<Vec<u8>>, KeysError> {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    let document =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &aws_lc_rs::rand::SystemRandom::new());
    document.map(|document| Zeroizing::new(document.as_ref().to_vec())).map_err(|_| KeysError::Random)
}

impl Tokens {
    /// Tokens under the signing keys.
    pub fn new(keys: &Keys, subjects: Arc<dyn Subjects>, clock: Clock) -> Self {
        Self { keys: keys.clone(), subjects, clock, known: cache::Cache::new() }
    }

    /// Issues a token. Whether the caller may ask for it is not judged here.
    pub async fn issue(&self, request: &TokenRequest) -> Result<Issued, TokenError> {
        let account = self
            .account(&request.namespace, &request.service_account)
            .await?
            .ok_or_else(|| TokenError::NotFound(format!("serviceaccounts {:?}", request.service_account)))?;
        let bound = match &request.bound {
            Some(bound) => Some(self.bind(&request.namespace, bound).await?),
            None => None,
        };
        let now = self.clock.now().as_second();
        let expires = Timestamp::from_second(now + request.seconds).map_err(|_| TokenError::Expired)?;
        let mut jti = [0u8; 16];
        crate::keys::fill_random(&mut jti)?;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{}:{}", request.namespace, request.service_account),
            aud: request.audiences.clone(),
            iat: now,
            nbf: now,
            exp: expires.as_second(),
            jti: URL_SAFE_NO_PAD.encode(jti),
            ours: Ours {
                namespace: request.namespace.clone(),
                serviceaccount: Reference { name: request.service_account.clone(), uid: account.uid.to_string() },
                bound,
            },
        };
        let payload = serde_json::to_vec(&claims).map_err(|_| TokenError::Key)?;
        let token = Zeroizing::new(self.keys.signer()?.sign(&payload)?);
        Ok(Issued { token, expires, audiences: claims.aud })
    }

    async fn bind(&self, namespace: &str, wanted: &BoundRef) -> Result<Bound, TokenError> {
        let wrong =
            |detail: &str| TokenError::Request(vec![FieldError::invalid("spec.boundObjectRef", &wanted.name, detail)]);
        let found = self.subjects.find(Key::new(wanted.kind.resource(), namespace, &*wanted.name)).await?;
        let missing =
            || TokenError::NotFound(format!("{} {:?}", wanted.kind.resource().trim_start_matches('/'), wanted.name));
        let found = found.ok_or_else(missing)?;
        if wanted.uid.as_deref().is_some_and(|uid| *uid != *found.uid) {
            return Err(wrong("the object has another uid"));
        }
        if found.ended {
            return Err(wrong("the session's run is over"));
        }
        Ok(Bound { kind: wanted.kind, name: wanted.name.clone(), uid: found.uid.to_string(), run: found.run })
    }

    /// Whom a token speaks for.
    pub async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::NotOurs);
        }
        let hash = crate::keys::sha256(token.as_bytes());
        let known = match self.known.get(&hash) {
            Some(known) => known,
            None => self.learn(hash, token)?,
        };
        if !self.keys.accepts(known.version) {
            self.known.remove(&hash);
            return Err(TokenError::NotOurs);
        }
        match self.still_good(&known.claims).await {
            Ok(()) => Ok(known.identity.clone()),
            Err(error) => {
                if matches!(error, TokenError::Expired | TokenError::Revoked(_)) {
                    self.known.remove(&hash);
                }
                Err(error)
            }
        }
    }

    fn learn(&self, hash: [u8; 32], token: &str) -> Result<Arc<Known>, TokenError> {
        let header = token.split_once('.').map_or("", |(header, _)| header);
        let (version, signer) = self.keys.verifier(header).ok_or(TokenError::NotOurs)?;
        let payload = signer.verify(token)?;
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| TokenError::NotOurs)?;
        if claims.iss != ISSUER {
            return Err(TokenError::NotOurs);
        }
        if !claims.aud.iter().any(|audience| audience == AUDIENCE) {
            return Err(TokenError::Audience);
        }
        let known = Arc::new(Known { version, identity: identity(&claims), claims });
        self.known.put(hash, Arc::clone(&known));
        Ok(known)
    }

    /// What can change after a signature was made: time, and the objects.
    async fn still_good(&self, claims: &Claims) -> Result<(), TokenError> {
        let now = self.clock.now().as_second();
        if now >= claims.exp {
            return Err(TokenError::Expired);
        }
        if now + LEEWAY_SECONDS < claims.nbf {
            return Err(TokenError::NotYet);
        }
        let account = self.account(&claims.ours.namespace, &claims.ours.serviceaccount.name).await?;
        if account.is_none_or(|account| *account.uid != *claims.ours.serviceaccount.uid) {
            return Err(TokenError::Revoked("its service account is gone"));
        }
        let Some(bound) = &claims.ours.bound else { return Ok(()) };
        let key = Key::new(bound.kind.resource(), &*claims.ours.namespace, &*bound.name);
        match self.subjects.find(key).await? {
            Some(found) if *found.uid != *bound.uid => {
                Err(TokenError::Revoked("the object that it is bound to is gone"))
            }
            None => Err(TokenError::Revoked("the object that it is bound to is gone")),
            Some(found) if found.ended => Err(TokenError::Revoked("its session's run is over")),
            // A session may go from "never ran" to its first run under a token, but not on to a later one.
            Some(found) if bound.run.is_some() && found.run != bound.run => {
                Err(TokenError::Revoked("its session's run is over"))
            }
            Some(_) => Ok(()),
        }
    }

    async fn account(&self, namespace: &str, name: &str) -> Result<Option<Subject>, StoreError> {
        self.subjects.find(Key::new(SERVICE_ACCOUNTS, namespace, name)).await
    }
}

fn identity(claims: &Claims) -> Identity {
    let ours = &claims.ours;
    let identity = Identity::service_account(&ours.namespace, &ours.serviceaccount.name)
        .with_uid(&*ours.serviceaccount.uid)
        .with_extra("authentication.kubernetes.io/credential-id", format!("JTI={}", claims.jti));
    match &ours.bound {
        Some(Bound { kind: BoundKind::Session, name, uid, .. }) => identity.bound_to(SessionBinding {
            namespace: ours.namespace.clone(),
            name: name.clone(),
            uid: uid.clone(),
        }),
        Some(Bound { kind: BoundKind::Pod, name, uid, .. }) => identity
            .with_extra("authentication.kubernetes.io/pod-name", &**name)
            .with_extra("authentication.kubernetes.io/pod-uid", &**uid),
        Some(Bound { kind: BoundKind::Secret, .. }) | None => identity,
    }
}
