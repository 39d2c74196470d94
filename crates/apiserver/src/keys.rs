//! The secrets of an installation: certificate authority, token-signing keys, data keys, the admin token.
//!
//! They live in the store's ring, wrapped by the key in a file that each replica has; so whoever has the file and the
//! database has all of them, and whoever has one of the two has nothing. Each has versions, of which the newest is used and
//! all are accepted ([`rotation`] makes and retires them). A process holds them unwrapped, and learns within seconds of
//! what another has changed.
//!
//! | key | new ones | older ones |
//! |---|---|---|
//! | `ca` | issues the certificates of servers | is trusted, and vouches for the newer one |
//! | `tokens` | signs tokens | verifies tokens |
//! | `data` | seals Secrets and Credentials | opens them |
//! | `admin` | is the admin's token | none: the token before is dead |
//!
//! A new version is used only after every replica has had the time to learn of it ([`Opening::settle`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use mainstay_runtime::Timestamp;
use mainstay_store::{Keyring, Ring};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

mod certificates;
mod error;
mod files;
mod inspect;
mod kubeconfig;
mod material;
mod memory;
mod nodes;
mod opening;
pub mod rotation;
mod takeover;
mod wrapping;

#[cfg(test)]
mod tests;

pub(crate) use certificates::Leaf;
pub use certificates::{certificate_name, server_names};
pub use error::KeysError;
pub(crate) use inspect::inspect;
pub(crate) use kubeconfig::ADMIN_TOKEN_PREFIX;
pub(crate) use nodes::JOIN_PREFIX;
pub use nodes::{LIFE as NODE_CERTIFICATE_LIFE, Signed};
pub use opening::Opening;

use certificates::Authority;
use material::{Found, Material, Versioned, in_use};
use wrapping::WrappingKey;

use crate::crypt::DataKey;
use crate::token::signer::Signer;

type Secret = Zeroizing<Vec<u8>>;

/// A replica that could not read the ring for so long does not seal any more: what it seals with may be retired.
const STALE: Duration = Duration::from_mins(2);

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyName {
    /// The certificate authority.
    Ca,
    /// What signs tokens.
    Tokens,
    /// What seals Secrets and Credentials.
    Data,
    /// The admin's token.
    Admin,
}

impl KeyName {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Ca, Self::Tokens, Self::Data, Self::Admin];

    /// Its name in the ring, in the API and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Tokens => "tokens",
            Self::Data => "data",
            Self::Admin => "admin",
        }
    }

    /// The key of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str() == name)
    }
}

/// The secrets of an installation, as this process knows them; cheap to clone.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    store: Arc<dyn Keyring>,
    /// Where the wrapping key is; `None` for keys that live with the process.
    file: Option<PathBuf>,
    settle: Duration,
    wrapping: ArcSwap<WrappingKey>,
    current: ArcSwap<Material>,
    /// When the ring was last read, or known to be as it is.
    read: Mutex<Instant>,
    changes: watch::Sender<u64>,
    /// One at a time reads and unwraps, or changes the ring.
    turn: tokio::sync::Mutex<()>,
}

impl Keys {
    /// Keys that nothing keeps: for tests and benches.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn ephemeral(now: Timestamp) -> Result<Self, KeysError> {
        let wrapping = WrappingKey::random()?;
        let ring = Ring { generation: 1, rows: rotation::first_versions(&Ring::default(), None, &wrapping, now)? };
        let material = Material::of(&ring, &wrapping, Found::AtStart(now))?;
        Ok(Self::new(Arc::new(memory::MemoryRing::new(ring)), None, Duration::ZERO, wrapping, material))
    }

    fn new(
        store: Arc<dyn Keyring>,
        file: Option<PathBuf>,
        settle: Duration,
        wrapping: WrappingKey,
        material: Material,
    ) -> Self {
        let changes = watch::Sender::new(material.generation);
        let (wrapping, current) = (ArcSwap::from_pointee(wrapping), ArcSwap::from_pointee(material));
        let (read, turn) = (Mutex::new(Instant::now()), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { store, file, settle, wrapping, current, read, changes, turn }))
    }

    /// Writes the admin kubeconfig for a server at `url`, if it is not there as it should be: 0600, atomically, with all
    /// authorities and the admin token inline.
    ///
    /// # Errors
    /// What the file system said, or [`KeysError::Unsafe`] for a file that others could touch.
    pub fn write_kubeconfig(&self, path: &Path, url: &str) -> Result<(), KeysError> {
        let material = self.material();
        let Some(token) = material.admin.first() else { return Err(KeysError::Absent { name: "admin" }) };
        kubeconfig::write(path, url, &self.authority_pem(), &token.key)
    }

    /// The certificates of the authorities that are trusted, in PEM, the newest first.
    pub fn authority_pem(&self) -> String {
        self.material().authorities.iter().map(|one| certificates::pem(one.key.certificate())).collect()
    }

    /// The certificates of the authorities that are trusted, the newest first.
    pub(crate) fn authorities(&self) -> Vec<CertificateDer<'static>> {
        self.material().authorities.iter().map(|one| one.key.certificate().clone()).collect()
    }

    /// What issues certificates of nodes now.
    fn issuing(&self) -> Result<Arc<Authority>, KeysError> {
        self.used(&self.material().authorities)
    }

    /// Whether this is the admin token; takes the same time for every wrong one.
    pub fn is_admin_token(&self, token: &str) -> bool {
        let given = sha256(token.as_bytes());
        let is = |known: &Versioned<Zeroizing<String>>| {
            let known = sha256(known.key.as_bytes());
            aws_lc_rs::constant_time::verify_slices_are_equal(&given, &known).is_ok()
        };
        self.material().admin.first().is_some_and(is)
    }

    /// A receiver that changes with the keys that this process knows.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Changes when the ring is said to have changed.
    pub(crate) fn ring_changes(&self) -> watch::Receiver<u64> {
        self.0.store.ring_changes()
    }

    /// Whether other processes may use the ring, too.
    pub(crate) fn is_shared(&self) -> bool {
        !self.0.settle.is_zero()
    }

    /// A server's certificate for exactly these names: `old`, if it still serves, or a new one.
    pub(crate) fn leaf(&self, old: Option<&Leaf>, names: &[String], now: Timestamp) -> Result<Leaf, KeysError> {
        let material = self.material();
        let Some(newest) = material.authorities.first() else { return Err(KeysError::Absent { name: "ca" }) };
        // Clients that trust only an older authority find the way to the newer one; and who knows the hash of one alone, a
        // node that joins, finds that one.
        let crossed = material.authorities.iter().filter_map(|one| one.key.cross()).cloned();
        let chain = || crossed.chain(self.authorities()).collect();
        match old {
            Some(old) if newest.key.serves(old, names, now)? => Ok(Leaf { chain: chain(), ..old.clone() }),
            _ => newest.key.issue(names, now, chain()),
        }
    }

    /// What signs tokens now.
    pub(crate) fn signer(&self) -> Result<Arc<Signer>, KeysError> {
        self.used(&self.material().signers)
    }

    /// What may have signed a token with this header, and its version.
    pub(crate) fn verifier(&self, header: &str) -> Option<(u64, Arc<Signer>)> {
        let material = self.material();
        let found = material.signers.iter().find(|one| one.key.header() == header);
        found.map(|one| (one.version, Arc::clone(&one.key)))
    }

    /// Whether tokens of this version are still accepted.
    pub(crate) fn accepts(&self, version: u64) -> bool {
        self.material().signers.iter().any(|one| one.version == version)
    }

    /// What seals now; `None` when this process has not heard of the ring for too long.
    pub(crate) fn sealing(&self) -> Option<Arc<DataKey>> {
        let read = *self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.0.settle.is_zero() && read.elapsed() > STALE {
            return None;
        }
        self.used(&self.material().data).ok()
    }

    /// What opens an envelope of this key id.
    pub(crate) fn opening(&self, id: &str) -> Option<Arc<DataKey>> {
        self.material().data.iter().find(|one| one.key.id() == id).map(|one| Arc::clone(&one.key))
    }

    fn material(&self) -> arc_swap::Guard<Arc<Material>> {
        self.0.current.load()
    }

    fn used<T>(&self, versions: &[Versioned<T>]) -> Result<Arc<T>, KeysError> {
        let used = in_use(versions, self.0.settle).ok_or(KeysError::Absent { name: "any" })?;
        Ok(Arc::clone(&used.key))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("material", &*self.material()).field("file", &self.0.file).finish_non_exhaustive()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), KeysError> {
    rand::fill(bytes).map_err(|_| KeysError::Random)
}
