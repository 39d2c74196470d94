//! Opening the keys of an installation: finds the wrapping key, and makes what is missing, once for all replicas.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::Timestamp;
use mainstay_store::{Keyring, Ring, RingChange, Store};

use super::material::{Found, Material};
use super::takeover::Legacy;
use super::wrapping::WrappingKey;
use super::{Keys, KeysError, files, rotation};

/// How often a change of the ring is tried while others change it, too.
pub(super) const TRIES: usize = 16;

/// Where keys are, and how they are shared.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// The file with the wrapping key: 32 random bytes, 0600.
    pub file: &'a Path,
    /// Whether that file may be made, while there are no keys yet.
    pub may_make: bool,
    /// A data directory that may have keys of an earlier version, to be taken over.
    pub data_dir: Option<&'a Path>,
    /// How long a new version is known before it is used: longer than any replica takes to learn of it, or nothing where
    /// there is one process.
    pub settle: Duration,
}

impl Keys {
    /// Opens the keys in the store's ring; makes those that are missing.
    ///
    /// # Errors
    /// [`KeysError::Unsafe`] when others could have read or written the key file, [`KeysError::Mismatch`] when it is not
    /// the one that wrapped the ring, [`KeysError::NoKeyFile`]. Nothing is changed then.
    pub async fn open(store: Arc<dyn Store>, opening: Opening<'_>, now: Timestamp) -> Result<Self, KeysError> {
        let store: Arc<dyn Keyring> = store;
        let legacy = opening.data_dir.map(Legacy::of).transpose()?.flatten();
        let mut ring = store.ring().await?;
        let wrapping = wrapping_key(&opening, &ring)?;
        for _ in 0..TRIES {
            // Whatever is there must be ours before anything is added.
            check(&ring, &wrapping)?;
            let add = rotation::first_versions(&ring, legacy.as_ref(), &wrapping, now)?;
            if add.is_empty() {
                let material = Material::of(&ring, &wrapping, Found::AtStart(now))?;
                if let Some(legacy) = &legacy {
                    legacy.remove(&material);
                }
                let file = Some(opening.file.to_owned());
                let keys = Self::new(store, file, opening.settle, wrapping, material);
                keys.renew_authority(now).await?;
                return Ok(keys);
            }
            store.change_ring(RingChange { generation: ring.generation, add, remove: Vec::new() }).await?;
            ring = store.ring().await?;
        }
        Err(KeysError::Contended)
    }

    /// Reads the ring anew, if it has changed.
    ///
    /// # Errors
    /// When it cannot be read or unwrapped: what was known before is used further.
    pub async fn refresh(&self) -> Result<(), KeysError> {
        let _turn = self.0.turn.lock().await;
        self.refresh_now().await
    }

    /// As [`Keys::refresh`], for who has the turn.
    pub(super) async fn refresh_now(&self) -> Result<(), KeysError> {
        let ring = self.0.store.ring().await?;
        self.learn(&ring)
    }

    fn learn(&self, ring: &Ring) -> Result<(), KeysError> {
        let known = self.0.current.load_full();
        if ring.generation != known.generation {
            if check(ring, &self.0.wrapping.load()).is_err()
                && let Some(file) = &self.0.file
            {
                self.0.wrapping.store(Arc::new(matching(file, ring)?));
            }
            let wrapping = self.0.wrapping.load();
            check(ring, &wrapping)?;
            let material = Material::of(ring, &wrapping, Found::Before(&known))?;
            tracing::info!(generation = ring.generation, "the keys have changed");
            self.0.current.store(Arc::new(material));
            self.0.changes.send_replace(ring.generation);
        }
        *self.0.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = tokio::time::Instant::now();
        Ok(())
    }
}

/// Every row must be wrapped by this key, and unchanged.
pub(super) fn check(ring: &Ring, wrapping: &WrappingKey) -> Result<(), KeysError> {
    ring.rows.iter().try_for_each(|row| wrapping.unwrap(row).map(drop))
}

/// The wrapping key of a start; made when there is nothing yet that needs one.
fn wrapping_key(opening: &Opening<'_>, ring: &Ring) -> Result<WrappingKey, KeysError> {
    if !ring.rows.is_empty() {
        return matching(opening.file, ring);
    }
    match WrappingKey::read(opening.file)? {
        Some(key) => Ok(key),
        None if opening.may_make => WrappingKey::make(opening.file),
        None => Err(KeysError::Missing { path: opening.file.to_owned() }),
    }
}

/// The key that wrapped the ring: in the file, or in the one beside it that is to take its place (see
/// [`Keys::rewrap`](super::Keys::rewrap)), which it takes then.
fn matching(file: &Path, ring: &Ring) -> Result<WrappingKey, KeysError> {
    let found = match WrappingKey::read(file)? {
        Some(key) => check(ring, &key).map(|()| key),
        None => Err(KeysError::NoKeyFile { path: file.to_owned() }),
    };
    let next = rotation::next_file(file);
    match found {
        Err(KeysError::Mismatch { .. } | KeysError::NoKeyFile { .. }) => match WrappingKey::read(&next)? {
            Some(key) if check(ring, &key).is_ok() => {
                files::rename_or_say(&next, file);
                Ok(key)
            }
            _ => found,
        },
        found => found,
    }
}
