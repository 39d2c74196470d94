//! The ring, unwrapped and ready for use. Never changed: a ring of another generation is another material.

use std::fmt;
use std::sync::Arc;

use jiff::SignedDuration;
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
    /// When this process learnt of it; `None` when it was there, and not young, at the start.
    learnt: Option<Instant>,
    pub(crate) key: Arc<T>,
}

/// What is younger at the start of a process may be unknown to others still. It includes how far clocks are apart.
const YOUNG: SignedDuration = SignedDuration::from_mins(1);

/// When a ring is found.
pub(super) enum Found<'a, T: ?Sized> {
    /// By a process that starts at this time.
    AtStart(Timestamp),
    /// By one that had this before.
    Before(&'a T),
}

impl<T: ?Sized> Clone for Found<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Found<'_, T> {}

impl<'a, T: ?Sized> Found<'a, T> {
    fn map<U: ?Sized>(self, part: impl FnOnce(&'a T) -> &'a U) -> Found<'a, U> {
        match self {
            Self::AtStart(now) => Found::AtStart(now),
            Self::Before(old) => Found::Before(part(old)),
        }
    }
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
    /// What a ring holds, as it is found by a process that starts `now`, or that had `before`: those versions are not parsed again.
    ///
    /// # Errors
    /// [`KeysError::Mismatch`] for another wrapping key, [`KeysError::Unusable`] for a version that cannot be used,
    /// [`KeysError::Absent`] for a key of which there is none.
    pub(super) fn of(ring: &Ring, wrapping: &WrappingKey, found: Found<'_, Self>) -> Result<Self, KeysError> {
        let of = |name| (ring, name, wrapping);
        let material = Self {
            generation: ring.generation,
            authorities: versions(of(KeyName::Ca), found.map(|old| &*old.authorities), Authority::parse)?,
            signers: versions(of(KeyName::Tokens), found.map(|old| &*old.signers), |key| {
                Signer::new(key).map_err(|error| error.to_string())
            })?,
            data: versions(of(KeyName::Data), found.map(|old| &*old.data), |key| {
                DataKey::new(key).map_err(|error| error.to_string())
            })?,
            admin: versions(of(KeyName::Admin), found.map(|old| &*old.admin), |key| {
                let text = std::str::from_utf8(key).map_err(|_| "it is not a token".to_owned())?;
                Ok(Zeroizing::new(text.to_owned()))
            })?,
        };
        Ok(material)
    }
}

/// The version to sign or seal with: the newest that all replicas have had the time to learn of; while there is none, the oldest.
pub(crate) fn in_use<T>(versions: &[Versioned<T>], settle: std::time::Duration) -> Option<&Versioned<T>> {
    let settled = |one: &&Versioned<T>| one.learnt.is_none_or(|learnt| learnt.elapsed() >= settle);
    versions.iter().find(settled).or(versions.last())
}

fn versions<T>(
    (ring, name, wrapping): (&Ring, KeyName, &WrappingKey),
    found: Found<'_, [Versioned<T>]>,
    parse: impl Fn(&[u8]) -> Result<T, String>,
) -> Result<Vec<Versioned<T>>, KeysError> {
    let one = |row: &KeyRow| {
        // A version is never changed, only wrapped anew: what was unwrapped once is right.
        if let Found::Before(old) = found
            && let Some(known) = old.iter().find(|old| old.version == row.version)
        {
            return Ok(Versioned { key: Arc::clone(&known.key), ..*known });
        }
        let unusable = |why: String| KeysError::Unusable {
            name: name.as_str().to_owned(),
            version: row.version,
            source: why.into(),
        };
        let key = Arc::new(parse(&wrapping.unwrap(row)?).map_err(unusable)?);
        let created = Timestamp::from_millisecond(row.created_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let is_known = matches!(found, Found::AtStart(now) if now.duration_since(created).abs() > YOUNG);
        Ok(Versioned { version: row.version, created, learnt: (!is_known).then(Instant::now), key })
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
