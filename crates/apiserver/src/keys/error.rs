//! Why keys cannot be had.

use std::path::{Path, PathBuf};

use mainstay_runtime::{Class, Classify, Reason};
use mainstay_store::StoreError;

type Source = Box<dyn std::error::Error + Send + Sync>;

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
    /// A file that others may have read or written, or that holds no key; it is not used.
    #[error("{} is not safe to use as a key file: {why}", path.display())]
    Unsafe {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key that must be there is not.
    #[error("{} is missing", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// The keys that are there need a key file that is not.
    #[error("the keys in the database are wrapped by a key file, and {} is missing; put it there, 0600", path.display())]
    NoKeyFile {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The key file is another installation's, or an older one.
    #[error(
        "the key file does not match: the keys in the database are wrapped by key {needed}, and it holds key {ours}"
    )]
    Mismatch {
        /// What the file holds: a part of its hash.
        ours: String,
        /// What is needed.
        needed: String,
    },
    /// A key file is damaged.
    #[error("{} does not hold a key", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// A version of a key in the ring is damaged, or cannot be made.
    #[error("version {version} of the key {name} cannot be used")]
    Unusable {
        /// Which key.
        name: String,
        /// Which version.
        version: u64,
        /// Why not.
        source: Source,
    },
    /// The ring has no version of a key.
    #[error("there is no version of the key {name}")]
    Absent {
        /// Which key.
        name: &'static str,
    },
    /// So many versions are in use that no further one is made.
    #[error("{count} versions of the key {name} are still in use; retire some, or wait until they are retired")]
    TooMany {
        /// Which key.
        name: &'static str,
        /// How many.
        count: usize,
    },
    /// A version that is needed cannot be retired.
    #[error("version {version} of the key {name} {why}")]
    InUse {
        /// Which key.
        name: &'static str,
        /// Which version.
        version: u64,
        /// Why not.
        why: &'static str,
    },
    /// Others change the ring again and again.
    #[error("the keys are being changed by others; try again")]
    Contended,
    /// A certificate cannot be made.
    #[error("no certificate could be made")]
    Certificate(#[source] Source),
    /// The system's random numbers cannot be had.
    #[error("no random numbers from the system")]
    Random,
    /// The store.
    #[error("the ring of keys could not be read or changed")]
    Store(#[from] StoreError),
}

impl KeysError {
    pub(super) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn unsafe_file(path: &Path, why: impl Into<String>) -> Self {
        Self::Unsafe { path: path.to_owned(), why: why.into() }
    }

    pub(super) fn certificate(source: impl Into<Source>) -> Self {
        Self::Certificate(source.into())
    }
}

impl Classify for KeysError {
    fn class(&self) -> Class {
        match self {
            Self::Io { .. } | Self::Random => Class::TRANSIENT,
            Self::Contended => Class::Conflict,
            Self::Store(error) => error.class(),
            Self::Unsafe { .. } | Self::Mismatch { .. } => Class::Terminal(Reason::SystemRefused),
            Self::Missing { .. } | Self::NoKeyFile { .. } | Self::Absent { .. } => Class::Terminal(Reason::NotFound),
            Self::TooMany { .. } | Self::InUse { .. } => Class::Terminal(Reason::Invalid),
            Self::Certificate(_) | Self::Damaged { .. } | Self::Unusable { .. } => Class::Terminal(Reason::Corrupt),
        }
    }
}
