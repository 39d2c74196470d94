//! Compact ES256 signatures under one key, which its header names.
//!
//! We are the only issuer, so a token's header must be, byte for byte, the one that we write: algorithm, key id and
//! type are pinned by that, and nothing of a token is parsed before its signature is known to be ours. This is why
//! no JWT library is used.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::TokenError;

/// Signs and verifies under one key.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    public: ParsedPublicKey,
    /// The encoded header, `{"alg":"ES256","kid":"...","typ":"JWT"}`.
    header: String,
}

impl Signer {
    pub(crate) fn new(pkcs8: &[u8]) -> Result<Self, TokenError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| TokenError::Key)?;
        let public = key.public_key().as_ref();
        let kid = URL_SAFE_NO_PAD.encode(&crate::keys::sha256(public)[..12]);
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"JWT"}}"#));
        let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public).map_err(|_| TokenError::Key)?;
        Ok(Self { key, public, header })
    }

    pub(crate) fn sign(&self, payload: &[u8]) -> Result<String, TokenError> {
        let mut token = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| TokenError::Key)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// What its tokens begin with, before the first point.
    pub(crate) fn header(&self) -> &str {
        &self.header
    }

    /// Whether this is that key.
    pub(crate) fn is(&self, pkcs8: &[u8]) -> bool {
        Self::new(pkcs8).is_ok_and(|other| other.header == self.header)
    }

    /// The payload of a token that we signed.
    pub(crate) fn verify(&self, token: &str) -> Result<Vec<u8>, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::NotOurs)?;
        let payload = signed.strip_prefix(&*self.header).and_then(|rest| rest.strip_prefix('.'));
        let payload = payload.ok_or(TokenError::NotOurs)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::NotOurs)?;
        self.public.verify_sig(signed.as_bytes(), &signature).map_err(|_| TokenError::NotOurs)?;
        URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::NotOurs)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}
