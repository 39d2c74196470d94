//! Encryption at rest of single values: AES-256-GCM, each bound to the very field of the very object it belongs to.
//!
//! An envelope is `mainstay:v1:KEYID:BASE64(nonce, ciphertext, tag)`. The place is authenticated with it, so an
//! envelope that was copied to another object, namespace or field does not open. Nonces are 96 random bits: safe for
//! some 2^32 values under one key, then the key must be rotated.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mainstay_runtime::{Class, Classify, Reason};
use zeroize::Zeroizing;

use crate::keys::{Keys, fill_random, sha256};

#[cfg(test)]
mod tests;

const PREFIX: &str = "mainstay:v1:";
/// The largest value that can be sealed.
pub const MAX_PLAIN: usize = 1024 * 1024;
const MAX_ENVELOPE: usize = (MAX_PLAIN + 64) / 3 * 4 + 64;

/// Which field of which object a value belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// API group.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Uid.
    pub uid: &'a str,
    /// Path of the field, such as `spec.token` or `data.KEY`.
    pub field: &'a str,
}

impl Place<'_> {
    /// Each part with its length before it, so that no two places give the same bytes.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        for part in [self.group, self.resource, self.namespace, self.name, self.uid, self.field] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// A value could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptError {
    /// Larger than [`MAX_PLAIN`].
    #[error("the value is larger than {MAX_PLAIN} bytes")]
    TooLarge,
    /// Not an envelope.
    #[error("the stored value is not an encrypted one")]
    Format,
    /// Sealed under a key that is not here.
    #[error("the stored value is encrypted under an unknown key")]
    UnknownKey,
    /// Changed, or moved from another place.
    #[error("the stored value was changed, or belongs to another object")]
    Forged,
    /// This process does not know which key is to be used: it could not ask for too long.
    #[error("the keys could not be read for too long to seal with them")]
    Stale,
    /// The library or the system's random numbers failed.
    #[error("the value could not be encrypted")]
    Failed,
}

impl Classify for CryptError {
    fn class(&self) -> Class {
        Class::Terminal(match self {
            Self::Stale => return Class::TRANSIENT,
            Self::TooLarge => Reason::TooLarge,
            Self::Format | Self::UnknownKey | Self::Forged => Reason::Corrupt,
            Self::Failed => Reason::SystemRefused,
        })
    }
}

/// A key that values are sealed under.
pub(crate) struct DataKey {
    id: String,
    hash: [u8; 32],
    key: LessSafeKey,
}

impl DataKey {
    pub(crate) fn new(key: &[u8]) -> Result<Self, CryptError> {
        let unbound = UnboundKey::new(&AES_256_GCM, key).map_err(|_| CryptError::Failed)?;
        // The id is a part of the key's hash: it tells keys apart, and nothing of them.
        let hash = sha256(key);
        let id = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        Ok(Self { id: format!("{id:08x}"), hash, key: LessSafeKey::new(unbound) })
    }

    /// What envelopes call it.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Whether this is that key.
    pub(crate) fn is(&self, key: &[u8]) -> bool {
        self.hash == sha256(key)
    }
}

/// Seals and opens values under the data keys.
pub struct Sealer(Source);

enum Source {
    /// As they are now.
    Live(Keys),
    /// The first one seals, all open.
    Fixed(Vec<Arc<DataKey>>),
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// Seals under the data key that is used now; opens under any that is accepted.
    pub fn new(keys: &Keys) -> Self {
        Self(Source::Live(keys.clone()))
    }

    pub(crate) fn with_keys<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Result<Self, CryptError> {
        let keys = keys.map(|key| DataKey::new(key).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Self(Source::Fixed(keys)))
    }

    fn sealing(&self) -> Result<Arc<DataKey>, CryptError> {
        match &self.0 {
            Source::Live(keys) => keys.sealing().ok_or(CryptError::Stale),
            Source::Fixed(keys) => keys.first().cloned().ok_or(CryptError::UnknownKey),
        }
    }

    fn opening(&self, id: &str) -> Result<Arc<DataKey>, CryptError> {
        let key = match &self.0 {
            Source::Live(keys) => keys.opening(id),
            Source::Fixed(keys) => keys.iter().find(|key| key.id == id).cloned(),
        };
        key.ok_or(CryptError::UnknownKey)
    }

    /// Whether an envelope is sealed under the key that is used now, or cannot be opened, so that it must stay as it is.
    pub(crate) fn is_current(&self, envelope: &str) -> bool {
        let id = envelope.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':')).map_or("", |(id, _)| id);
        let known = self.opening(id).is_ok();
        !known || self.sealing().is_ok_and(|key| key.id == id)
    }

    /// Whether a stored value looks like an envelope.
    pub fn is_sealed(value: &str) -> bool {
        value.starts_with(PREFIX)
    }

    /// Encrypts a value for its place.
    pub fn seal(&self, place: &Place<'_>, plain: &[u8]) -> Result<String, CryptError> {
        if plain.len() > MAX_PLAIN {
            return Err(CryptError::TooLarge);
        }
        let DataKey { id, key, .. } = &*self.sealing()?;
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce).map_err(|_| CryptError::Failed)?;
        // Full capacity at once: a reallocation would leave plain text behind in freed memory.
        let mut sealed = Zeroizing::new(Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len()));
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(place.bytes()), &mut sealed[NONCE_LEN..])
            .map_err(|_| CryptError::Failed)?;
        sealed.extend_from_slice(tag.as_ref());
        let mut envelope = String::with_capacity(PREFIX.len() + id.len() + 1 + sealed.len().div_ceil(3) * 4);
        envelope.push_str(PREFIX);
        envelope.push_str(id);
        envelope.push(':');
        STANDARD.encode_string(&*sealed, &mut envelope);
        Ok(envelope)
    }

    /// Decrypts what was sealed for exactly this place.
    pub fn open(&self, place: &Place<'_>, envelope: &str) -> Result<Zeroizing<Vec<u8>>, CryptError> {
        let rest =
            envelope.strip_prefix(PREFIX).filter(|_| envelope.len() <= MAX_ENVELOPE).ok_or(CryptError::Format)?;
        let (id, text) = rest.split_once(':').ok_or(CryptError::Format)?;
        let key = self.opening(id)?;
        let mut sealed = Zeroizing::new(STANDARD.decode(text).map_err(|_| CryptError::Format)?);
        let nonce = sealed.first_chunk::<NONCE_LEN>().copied().ok_or(CryptError::Format)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = key
            .key
            .open_within(nonce, Aad::from(place.bytes()), &mut sealed, NONCE_LEN..)
            .map_err(|_| CryptError::Forged)?
            .len();
        sealed.truncate(plain);
        Ok(sealed)
    }
}
