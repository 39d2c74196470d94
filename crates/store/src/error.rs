//! Failures of the store, classed where SQL meets Rust.

use std::path::PathBuf;
use std::sync::Arc;

use mainstay_runtime::{Class, Classify, Reason};

use crate::lease::Fence;
use crate::object::{Key, Object, Revision};
use crate::operation::Attempt;

/// A store operation did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A create found the key taken.
    #[error("the object exists already")]
    Exists(Arc<Object>),
    /// An update or delete found no object.
    #[error("there is no such object")]
    Missing,
    /// An update or delete found another revision.
    #[error("the object is at revision {}", .0.revision)]
    Conflict(Arc<Object>),
    /// Another object is not, or no longer, as the write requires it.
    #[error("{0} is not as the write requires it")]
    Unmet(Key),
    /// The attempt is not, or no longer, the operation's current one.
    #[error("attempt {} of operation {} is not the current one", .0.number, .0.id)]
    Fenced(Attempt),
    /// The writer's term is over: another leads.
    #[error("term {} of lease {} is not its newest", .0.term, .0.lease)]
    Deposed(Fence),
    /// The revision asked for lies below the compaction floor.
    #[error("revision {asked} is no longer retained (floor {floor})")]
    Expired {
        /// What was asked for.
        asked: Revision,
        /// The oldest revision that is retained.
        floor: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {asked} is ahead of the newest, {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest.
        current: Revision,
    },
    /// The item is larger than the store takes.
    #[error("{size} bytes are more than the limit of {limit}")]
    TooLarge {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Too many writes are waiting.
    #[error("too many writes are waiting")]
    Busy,
    /// The disk is full: reads go on, writes fail until there is room.
    #[error("the disk is full; the store is read-only until there is room")]
    Full,
    /// The database cannot be reached: nothing was sent to it.
    #[error("the database cannot be reached")]
    Away(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// Another process holds the directory.
    #[error("another instance uses this data directory{}", .pid.map(|pid| format!(": process {pid} holds its lock")).unwrap_or_default())]
    Locked {
        /// Its id, when it says so in the lock file.
        pid: Option<u32>,
    },
    /// The directory's state is in another database, or may be.
    #[error(
        "{} says that the state {} {database}{}", .file.display(),
        if *.settled { "has moved to" } else { "was on its way to" },
        if *.settled {
            "; serve it with --database, or remove the file to go on with what was left behind"
        } else {
            " when the last step was cut short; repeat `mainstay migrate`, which finds out whether it was done, or remove the \
             file if that database is gone"
        }
    )]
    Moved {
        /// That database.
        database: String,
        /// What says so.
        file: PathBuf,
        /// Whether it is known.
        settled: bool,
    },
    /// The data is of a version that this program cannot work with.
    #[error(
        "the state has schema version {found}, which needs a program that knows version {oldest} at least, and this one \
         knows {known}; start a newer one, or restore a backup of before"
    )]
    NewerSchema {
        /// In the directory, or the database.
        found: u32,
        /// The least that a program has to know.
        oldest: u32,
        /// Ours.
        known: u32,
    },
    /// The database failed; what was sent may or may not be stored.
    #[error("the database failed")]
    Database(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

impl Classify for StoreError {
    fn class(&self) -> Class {
        match self {
            Self::Exists(_) => Class::Terminal(Reason::AlreadyExists),
            Self::Missing => Class::Terminal(Reason::NotFound),
            Self::Conflict(_) | Self::Unmet(_) => Class::Conflict,
            Self::Fenced(_) | Self::Deposed(_) | Self::Moved { .. } => Class::Fenced,
            Self::Expired { .. } => Class::Terminal(Reason::Expired),
            Self::TooLarge { .. } => Class::Terminal(Reason::TooLarge),
            Self::Future { .. } | Self::Busy | Self::Full | Self::Away(_) | Self::Closed | Self::Locked { .. } => {
                Class::TRANSIENT
            }
            Self::NewerSchema { .. } => Class::Terminal(Reason::Unsupported),
            Self::Database(_) => Class::Indeterminate,
        }
    }
}
