//! Why a file is not taken for a backup.

use std::io;
use std::path::{Path, PathBuf};

use mainstay_runtime::{Class, Classify, Reason};

/// A backup's file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// The file system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is cut off, was changed, or never was a backup.
    #[error("{} is not a whole backup: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It is one of another program's.
    #[error("{} is a backup of format {found}; this program reads format {known}", path.display())]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u32,
    },
    /// Another process makes a backup in the same place.
    #[error("another backup is under way there, in {}", .0.display())]
    Busy(PathBuf),
}

impl ArchiveError {
    /// The file system's word on something with a file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.into() }
    }
}

impl Classify for ArchiveError {
    fn class(&self) -> Class {
        match self {
            Self::Io { .. } | Self::Busy(_) => Class::TRANSIENT,
            Self::Damaged { .. } => Class::Terminal(Reason::Corrupt),
            Self::Unsupported { .. } => Class::Terminal(Reason::Unsupported),
        }
    }
}
