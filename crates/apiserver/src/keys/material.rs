//! The ring, unwrapped and ready for use. Never changed: a ring of another generation is another material.

use std::fmt;
use std::sync::Arc;

use mainstay_runtime::Timestamp;
use mainstay_store::{KeyRow, Ring};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::certificates::Authority;
use super::wrapping::WrappingKey;
use super::{KeyName, KeysError};
use crate::crypt::DataKey;
use crate::token::signer::Signer;

/// One version of a key.
#[derive(Clone)]
pub(crate) struct Versioned<T> {
    pub(crate) version: u64,
    pub(crate) created: Timestamp,
    /// When this process learnt of it; `None` when it was there at the start.
    learnt: Option<Instant>,
    pub(crate) key: Arc<T>,
}

/// All keys of one generation of the ring; of each the newest version first, and at least one.
pub(crate) struct Material {
    pub(crate) generation: u64,
    pub(crate) authorities: Vec<Versioned<Authority>>,
    pub(crate) signers: Vec<Versioned<Signer>>,
    pub(crate) data: Vec<Versioned<DataKey>>,
    pub(crate) admin: Vec<Versioned<Zeroizing<String>>>,
}

impl Material {
    /// What a ring holds. Versions that `before` had are not parsed again.
    ///
    /// # Errors
    /// [`KeysError::Mismatch`] for another wrapping key, [`KeysError::Unusable`] for a version that cannot be used,
    /// [`KeysError::Absent`] for a key of which there is none.
    pub(super) fn of(ring: &Ring, wrapping: &WrappingKey, before: Option<&Self>) -> Result<Self, KeysError> {
        let material = Self {
            generation: ring.generation,
            authorities: versions(ring, KeyName::Ca, before.map(|old| &*old.authorities), wrapping, Authority::parse)?,
            signers: versions(ring, KeyName::Tokens, before.map(|old| &*old.signers), wrapping, |key| {
                Signer::new(key).map_err(|error| error.to_string())
            })?,
            data: versions(ring, KeyName::Data, before.map(|old| &*old.data), wrapping, |key| {
                DataKey::new(key).map_err(|error| error.to_string())
            })?,
            admin: versions(ring, KeyName::Admin, before.map(|old| &*old.admin), wrapping, |key| {
                let text = std::str::from_utf8(key).map_err(|_| "it is not a token".to_owned())?;
                Ok(Zeroizing::new(text.to_owned()))
            })?,
        };
        Ok(material)
    }
}

/// The version to sign or seal with: the newest that all replicas have had the time to learn of.
pub(crate) fn in_use<T>(versions: &[Versioned<T>], settle: std::time::Duration) -> Option<&Versioned<T>> {
    let settled = |one: &&Versioned<T>| one.learnt.is_none_or(|learnt| learnt.elapsed() >= settle);
    versions.iter().find(settled).or(versions.first())
}

fn versions<T>(
    ring: &Ring,
    name: KeyName,
    before: Option<&[Versioned<T>]>,
    wrapping: &WrappingKey,
    parse: impl Fn(&[u8]) -> Result<T, String>,
) -> Result<Vec<Versioned<T>>, KeysError> {
    let one = |row: &KeyRow| {
        // A version is never changed, only wrapped anew: what was unwrapped once is right.
        if let Some(known) = before.and_then(|old| old.iter().find(|old| old.version == row.version)) {
            return Ok(Versioned { key: Arc::clone(&known.key), ..*known });
        }
        let unusable = |why: String| KeysError::Unusable {
            name: name.as_str().to_owned(),
            version: row.version,
            source: why.into(),
        };
        let key = Arc::new(parse(&wrapping.unwrap(row)?).map_err(unusable)?);
        let created = Timestamp::from_millisecond(row.created_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Versioned { version: row.version, created, learnt: before.map(|_| Instant::now()), key })
    };
    let mut versions: Vec<_> = rows(ring, name).map(one).collect::<Result<_, KeysError>>()?;
    versions.reverse();
    if versions.is_empty() { Err(KeysError::Absent { name: name.as_str() }) } else { Ok(versions) }
}

/// The versions of a key, oldest first.
pub(super) fn rows(ring: &Ring, name: KeyName) -> impl DoubleEndedIterator<Item = &KeyRow> {
    ring.rows.iter().filter(move |row| *row.name == *name.as_str())
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Material of generation {}", self.generation)
    }
}
