//! The secrets of a data directory: certificate authority, server key, token-signing key, data keys, admin token.
//!
//! They live in `DIR/keys` (0700), one 0600 file each, made at first start. Whoever opens them holds the directory's
//! lock, so two starts cannot race. Of the admin token only the SHA-256 is kept here; the token itself is in the
//! admin kubeconfig alone: removing that file makes the next start issue a new token, and the old one dies.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mainstay_runtime::{Class, Classify, Reason, Timestamp};
use zeroize::Zeroizing;

mod certificates;
mod files;
mod inspect;
mod kubeconfig;
mod nodes;

#[cfg(test)]
mod tests;

pub(crate) use certificates::Pair;
pub use certificates::{certificate_name, server_names};
pub(crate) use inspect::inspect;
pub(crate) use kubeconfig::ADMIN_TOKEN_PREFIX;
pub use nodes::{LIFE as NODE_CERTIFICATE_LIFE, Signed};

use certificates::Authority;

const TOKEN_FILE: &str = "token.key";
const DATA_FILE: &str = "data.key";
const ADMIN_FILE: &str = "admin.sha256";

/// The secrets of one data directory.
pub struct Keys {
    dir: PathBuf,
    authority: Authority,
    signing: Zeroizing<Vec<u8>>,
    sealing: Vec<Zeroizing<[u8; 32]>>,
    admin: ArcSwap<[u8; 32]>,
}

/// Keys could not be made, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that others may have read or written; it is not used.
    #[error("{} is not safe to use as a key file: {why}", path.display())]
    Unsafe {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate or its key is damaged or cannot be made.
    #[error("the certificate in {} cannot be used", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A key that must be there is not.
    #[error("{} is missing", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// A key is damaged.
    #[error("{} does not hold a key", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// The system's random numbers cannot be had.
    #[error("no random numbers from the system")]
    Random,
}

impl KeysError {
    fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    /// Whether the disk is full.
    fn lacks_room(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    fn unsafe_file(path: &Path, why: impl Into<String>) -> Self {
        Self::Unsafe { path: path.to_owned(), why: why.into() }
    }

    fn certificate(path: &Path, source: rcgen::Error) -> Self {
        Self::Certificate { path: path.to_owned(), source: Box::new(source) }
    }
}

impl Classify for KeysError {
    fn class(&self) -> Class {
        match self {
            Self::Io { .. } | Self::Random => Class::TRANSIENT,
            Self::Unsafe { .. } => Class::Terminal(Reason::SystemRefused),
            Self::Missing { .. } => Class::Terminal(Reason::NotFound),
            Self::Certificate { .. } | Self::Damaged { .. } => Class::Terminal(Reason::Corrupt),
        }
    }
}

impl Keys {
    /// Opens the keys in `DIR/keys`; makes those that are missing.
    ///
    /// # Errors
    /// [`KeysError::Unsafe`] when others could have read or written one of them.
    pub fn open_or_create(data_dir: &Path, now: Timestamp) -> Result<Self, KeysError> {
        let dir = data_dir.join("keys");
        files::private_dir(&dir)?;
        let authority = Authority::open_or_create(&dir, now)?;
        let signing = load(&dir.join(TOKEN_FILE), crate::token::generate_key)?;
        let sealing = data_keys(&dir.join(DATA_FILE))?;
        let admin = ArcSwap::from_pointee(admin_hash(&dir.join(ADMIN_FILE))?);
        Ok(Self { dir, authority, signing, sealing, admin })
    }

    /// Writes the admin kubeconfig for a server at `url`, if it is not there: 0600, atomically, with the authority inline.
    ///
    /// The token in an existing file is kept when it is the current one; otherwise a new one takes its place.
    pub fn write_kubeconfig(&self, path: &Path, url: &str) -> Result<(), KeysError> {
        let token = match kubeconfig::read_token(path)? {
            Some(token) if self.is_admin_token(&token) => token,
            _ => {
                let token = kubeconfig::new_token()?;
                let hash = sha256(token.as_bytes());
                files::write(&self.dir.join(ADMIN_FILE), STANDARD.encode(hash).as_bytes())?;
                self.admin.store(Arc::new(hash));
                token
            }
        };
        kubeconfig::write(path, url, &self.authority_pem(), &token)
    }

    /// The certificate of the authority, in PEM; clients trust it.
    pub fn authority_pem(&self) -> String {
        certificates::pem(self.authority.certificate())
    }

    /// The certificate of the authority.
    pub(crate) fn authority(&self) -> rustls_pki_types::CertificateDer<'static> {
        self.authority.certificate().clone()
    }

    /// Whether this is the admin token; takes the same time for every wrong one.
    pub fn is_admin_token(&self, token: &str) -> bool {
        let given = sha256(token.as_bytes());
        aws_lc_rs::constant_time::verify_slices_are_equal(&given, self.admin.load().as_ref()).is_ok()
    }

    pub(crate) fn server_pair(&self, names: &[String], now: Timestamp) -> Result<Pair, KeysError> {
        self.authority.server(&self.dir, names, now)
    }

    /// The token-signing key, as PKCS #8.
    pub(crate) fn token_key(&self) -> &[u8] {
        &self.signing
    }

    /// The data keys; the first one seals, all open.
    pub(crate) fn data_keys(&self) -> &[Zeroizing<[u8; 32]>] {
        &self.sealing
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("dir", &self.dir).finish_non_exhaustive()
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

type Secret = Zeroizing<Vec<u8>>;

/// A binary secret kept as one line of base64, made when it is missing.
fn load(path: &Path, make: impl FnOnce() -> Result<Secret, KeysError>) -> Result<Secret, KeysError> {
    if let Some(text) = files::read(path)? {
        return decode_line(&text, path);
    }
    let secret = make()?;
    files::write(path, Zeroizing::new(STANDARD.encode(&*secret)).as_bytes())?;
    Ok(secret)
}

fn decode_line(line: &[u8], path: &Path) -> Result<Secret, KeysError> {
    let damaged = |_| KeysError::Damaged { path: path.to_owned() };
    STANDARD.decode(line.trim_ascii()).map(Zeroizing::new).map_err(damaged)
}

/// One data key a line; a new first line is how a key is rotated.
fn data_keys(path: &Path) -> Result<Vec<Zeroizing<[u8; 32]>>, KeysError> {
    let random = || {
        let mut key = Zeroizing::new(vec![0; 32]);
        fill_random(&mut key)?;
        Ok(key)
    };
    if files::read(path)?.is_none() {
        load(path, random)?;
    }
    let text = files::read(path)?.ok_or_else(|| KeysError::Missing { path: path.to_owned() })?;
    parse_data_keys(&text, path)
}

fn parse_data_keys(text: &[u8], path: &Path) -> Result<Vec<Zeroizing<[u8; 32]>>, KeysError> {
    let damaged = || KeysError::Damaged { path: path.to_owned() };
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let keys: Vec<_> = lines
        .map(|line| {
            <[u8; 32]>::try_from(decode_line(line, path)?.as_slice()).map(Zeroizing::new).map_err(|_| damaged())
        })
        .collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(damaged()) } else { Ok(keys) }
}

/// The stored hash of the admin token; that of an unknown random value until a kubeconfig is written.
fn admin_hash(path: &Path) -> Result<[u8; 32], KeysError> {
    let Some(text) = files::read(path)? else {
        let mut nobody = [0; 32];
        fill_random(&mut nobody)?;
        return Ok(nobody);
    };
    <[u8; 32]>::try_from(decode_line(&text, path)?.as_slice()).map_err(|_| KeysError::Damaged { path: path.to_owned() })
}
