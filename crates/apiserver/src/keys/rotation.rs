//! New versions of keys, the end of old ones, and another wrapping key. All of it live: each is one change of the ring,
//! which every replica learns of.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::Timestamp;
use mainstay_store::{KeyRow, Ring, RingChange};
use serde::Serialize;
use zeroize::Zeroizing;

use super::certificates::Authority;
use super::material::{Versioned, in_use, rows};
use super::opening::{TRIES, check};
use super::takeover::Legacy;
use super::wrapping::WrappingKey;
use super::{KeyName, Keys, KeysError, Secret, files, fill_random, kubeconfig};

/// The most versions of one key.
const MOST: usize = 8;

/// A version of a key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Which key.
    pub name: &'static str,
    /// Which version.
    pub version: u64,
    /// When it was made.
    pub created: Timestamp,
    /// What it is good for.
    pub state: State,
}

/// What a version is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// New, and not used before all replicas know it.
    Next,
    /// What is made now is made with it.
    Used,
    /// What was made with it is accepted.
    Accepted,
}

impl Keys {
    /// Makes a new version of a key, and gives its number. What was made with the others stays good, save that the admin's
    /// token dies at once.
    ///
    /// # Errors
    /// [`KeysError::TooMany`]; [`KeysError::Store`], after which there may be a new version or not.
    pub async fn rotate(&self, name: KeyName, now: Timestamp) -> Result<u64, KeysError> {
        self.change(|ring, wrapping| {
            let count = rows(ring, name).count();
            if count >= MOST {
                return Err(KeysError::TooMany { name: name.as_str(), count });
            }
            let newest = rows(ring, name).last();
            let version = newest.map_or(0, |row| row.version) + 1;
            let key = make(name, version, newest, wrapping, now)?;
            let all = rows(ring, name).map(|row| (Arc::clone(&row.name), row.version));
            let remove = if name == KeyName::Admin { all.collect() } else { Vec::new() };
            let add = vec![row(name, version, &key, wrapping, now)?];
            Ok((RingChange { generation: ring.generation, remove, add }, version))
        })
        .await
    }

    /// Ends versions of a key: what was made with them is refused from now on.
    ///
    /// # Errors
    /// [`KeysError::InUse`] for the newest; nothing is changed then.
    pub async fn retire(&self, name: KeyName, versions: &[u64]) -> Result<(), KeysError> {
        self.change(|ring, _| {
            let newest = rows(ring, name).last().map_or(0, |row| row.version);
            if versions.contains(&newest) {
                let why = "is the newest; rotate first";
                return Err(KeysError::InUse { name: name.as_str(), version: newest, why });
            }
            let known = rows(ring, name).filter(|row| versions.contains(&row.version));
            let remove = known.map(|row| (Arc::clone(&row.name), row.version)).collect();
            Ok((RingChange { generation: ring.generation, remove, add: Vec::new() }, ()))
        })
        .await
    }

    /// Wraps the ring by the key in the file beside the key file, `FILE.new`, which then takes the place of `FILE`. Every
    /// other replica does the same with its own files when it learns of it. The old key opens nothing any more.
    ///
    /// A crash in between is healed by the next start, which finds the ring wrapped by either of the two.
    ///
    /// # Errors
    /// [`KeysError::Missing`] and [`KeysError::Unsafe`] for the new file; nothing is changed then.
    pub async fn rewrap(&self) -> Result<String, KeysError> {
        let Some(file) = &self.0.file else { return Err(KeysError::Absent { name: "file" }) };
        let next = next_file(file);
        let key = WrappingKey::read(&next)?.ok_or_else(|| KeysError::Missing { path: next.clone() })?;
        self.change(|ring, wrapping| {
            let anew = |row: &KeyRow| {
                let name = KeyName::of(&row.name).ok_or(KeysError::Absent { name: "this name" })?;
                let wrapped = key.wrap(name, row.version, &wrapping.unwrap(row)?)?;
                Ok(KeyRow { wrapped, ..row.clone() })
            };
            let add = ring.rows.iter().map(anew).collect::<Result<_, KeysError>>()?;
            Ok((RingChange { generation: ring.generation, remove: Vec::new(), add }, ()))
        })
        .await?;
        Ok(self.wrapped_by())
    }

    /// What the wrapping key is known by.
    pub fn wrapped_by(&self) -> String {
        self.0.wrapping.load().id()
    }

    /// Every version there is, in order of names, the newest first.
    pub fn versions(&self) -> Vec<Version> {
        let material = self.material();
        let settle = self.0.settle;
        let mut all = Vec::new();
        all.extend(told(KeyName::Admin, &material.admin, settle));
        // The newest authority issues at once: the older ones vouch for it.
        all.extend(told(KeyName::Ca, &material.authorities, Duration::ZERO));
        all.extend(told(KeyName::Data, &material.data, settle));
        all.extend(told(KeyName::Tokens, &material.signers, settle));
        all
    }

    /// The newest version, once it is used, and the older ones if there are any.
    pub(crate) fn older(&self, name: KeyName) -> Option<(u64, Vec<u64>)> {
        let versions = self.versions().into_iter().filter(|version| version.name == name.as_str());
        let (used, rest): (Vec<_>, Vec<_>) = versions.partition(|version| version.state == State::Used);
        let all_older = !rest.is_empty() && rest.iter().all(|version| version.state == State::Accepted);
        let newest = used.first().filter(|_| all_older)?.version;
        Some((newest, rest.iter().map(|version| version.version).collect()))
    }

    /// The versions whose successors were made longer ago than this.
    pub(crate) fn superseded(&self, name: KeyName, span: Duration, now: Timestamp) -> Vec<u64> {
        let versions: Vec<_> = self.versions().into_iter().filter(|version| version.name == name.as_str()).collect();
        let over = |newer: &Version| newer.created.checked_add(span).is_ok_and(|until| until < now);
        versions.windows(2).filter(|pair| over(&pair[0])).map(|pair| pair[1].version).collect()
    }

    /// Makes a new authority when the newest cannot outlive a certificate that it would issue.
    pub(crate) async fn renew_authority(&self, now: Timestamp) -> Result<(), KeysError> {
        let material = self.0.current.load_full();
        match material.authorities.first() {
            Some(newest) if !newest.key.outlives_a_leaf(now)? => self.rotate(KeyName::Ca, now).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Makes what `plan` says of the ring as it is then; again when others were faster.
    async fn change<T>(
        &self,
        plan: impl Fn(&Ring, &WrappingKey) -> Result<(RingChange, T), KeysError>,
    ) -> Result<T, KeysError> {
        let _turn = self.0.turn.lock().await;
        for _ in 0..TRIES {
            let ring = self.0.store.ring().await?;
            let wrapping = self.0.wrapping.load_full();
            check(&ring, &wrapping)?;
            let (change, outcome) = plan(&ring, &wrapping)?;
            if self.0.store.change_ring(change).await?.is_some() {
                self.refresh_now().await?;
                return Ok(outcome);
            }
        }
        Err(KeysError::Contended)
    }
}

fn told<T>(name: KeyName, versions: &[Versioned<T>], settle: Duration) -> Vec<Version> {
    let used = in_use(versions, settle).map_or(0, |one| one.version);
    let state = |version: u64| match version.cmp(&used) {
        std::cmp::Ordering::Greater => State::Next,
        std::cmp::Ordering::Equal => State::Used,
        std::cmp::Ordering::Less => State::Accepted,
    };
    let tell = |one: &Versioned<T>| Version {
        name: name.as_str(),
        version: one.version,
        created: one.created,
        state: state(one.version),
    };
    versions.iter().map(tell).collect()
}

/// What a ring lacks: taken over from files of an earlier version, or made.
pub(super) fn first_versions(
    ring: &Ring,
    legacy: Option<&Legacy>,
    wrapping: &WrappingKey,
    now: Timestamp,
) -> Result<Vec<KeyRow>, KeysError> {
    let mut add = Vec::new();
    for name in KeyName::ALL {
        if rows(ring, name).next().is_some() {
            continue;
        }
        let mut keys = legacy.map(|legacy| legacy.versions(name)).transpose()?.unwrap_or_default();
        if keys.is_empty() {
            keys.push(make(name, 1, None, wrapping, now)?);
        }
        for (version, key) in (1..).zip(&keys) {
            add.push(row(name, version, key, wrapping, now)?);
        }
    }
    Ok(add)
}

/// The file whose key is to take the place of the one in `file`.
pub(super) fn next_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Puts a key into the file from which the next [`Keys::rewrap`] takes it: that of `from`, or a new one.
///
/// # Errors
/// As for a key file; nothing is written then.
pub fn prepare_rewrap(file: &Path, from: Option<&Path>) -> Result<PathBuf, KeysError> {
    let next = next_file(file);
    match from {
        Some(from) => {
            WrappingKey::read(from)?.ok_or_else(|| KeysError::Missing { path: from.to_owned() })?;
            let content = files::read_given(from)?.ok_or_else(|| KeysError::Missing { path: from.to_owned() })?;
            files::write(&next, &content)?;
        }
        None => drop(WrappingKey::make(&next)?),
    }
    Ok(next)
}

/// What the key in a file is known by.
///
/// # Errors
/// As for a key file.
pub fn key_id(file: &Path) -> Result<String, KeysError> {
    let key = WrappingKey::read(file)?.ok_or_else(|| KeysError::Missing { path: file.to_owned() })?;
    Ok(key.id())
}

fn row(name: KeyName, version: u64, key: &[u8], wrapping: &WrappingKey, now: Timestamp) -> Result<KeyRow, KeysError> {
    let wrapped = wrapping.wrap(name, version, key)?;
    Ok(KeyRow { name: name.as_str().into(), version, wrapped, created_ms: now.as_millisecond() })
}

/// A new version of a key; an authority's is vouched for by the one before.
fn make(
    name: KeyName,
    version: u64,
    before: Option<&KeyRow>,
    wrapping: &WrappingKey,
    now: Timestamp,
) -> Result<Secret, KeysError> {
    match name {
        KeyName::Ca => {
            let parse = |row: &KeyRow| Authority::parse(&wrapping.unwrap(row)?).map_err(KeysError::certificate);
            Authority::make(version, before.map(parse).transpose()?.as_ref(), now)
        }
        KeyName::Tokens => crate::token::generate_key(),
        KeyName::Data => {
            let mut key = Zeroizing::new(vec![0; 32]);
            fill_random(&mut key)?;
            Ok(key)
        }
        KeyName::Admin => Ok(Zeroizing::new(kubeconfig::new_token()?.as_bytes().to_vec())),
    }
}
