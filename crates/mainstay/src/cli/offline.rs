//! What the verbs that work on a data directory itself have in common.

use std::path::Path;

use mainstay_api::Registry;
use mainstay_apiserver::audit::Audit;
use mainstay_runtime::failure::chain_of;
use mainstay_store::StoreError;
use mainstay_store::sqlite::StateError;
use mainstay_store::sqlite::backup::{Contents, Progress};
use mainstay_store::sqlite::check::{Fault, Report, check};
use mainstay_store::sqlite::keyring::look_at_ring;

use super::failure::CliError;
use crate::archive::ArchiveError;

/// Checks a directory's database and keys, each against the other. `key_file` wraps them; the directory's own, if none is
/// named.
pub(super) fn examine(dir: &Path, key_file: Option<&Path>, tell: Progress<'_>) -> Result<Report, StateError> {
    let registry = Registry::standard();
    // What cannot be read of it is a fault that the check of the database finds.
    let ring = look_at_ring(dir).unwrap_or_default();
    let (audit, keys) = Audit::of(&registry, dir, key_file, &ring);
    let mut report = check(dir, &mut |object| audit.look(object), tell)?;
    for (meaning, remedy) in keys {
        report.add(Fault { check: "keys", place: "keys".to_owned(), meaning, remedy });
    }
    Ok(report)
}

/// What a state holds, in a line.
pub(super) fn contents(state: &Contents) -> String {
    let Contents { schema, revision, epoch, objects, operations, messages } = state;
    format!(
        "revision {revision} of epoch {epoch}, {objects} objects ({operations} of them operations), {messages} messages, \
         schema {schema}"
    )
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

impl From<StateError> for CliError {
    fn from(error: StateError) -> Self {
        let text = chain_of(&error);
        match error {
            StateError::Missing(_) => Self::NotFound(text),
            StateError::Present { .. } => Self::Refused(format!(
                "{text}. Restore into another directory, or give --replace, which keeps what is there beside"
            )),
            StateError::Store(StoreError::Locked { .. }) => {
                Self::Refused(format!("{text}. Stop it first; its sandboxes go on"))
            }
            StateError::Store(StoreError::Moved { .. }) => Self::Refused(text),
            StateError::Unfinished(_) | StateError::Io { .. } | StateError::Store(_) => Self::Failed(text),
        }
    }
}

impl From<ArchiveError> for CliError {
    fn from(error: ArchiveError) -> Self {
        let text = chain_of(&error);
        match error {
            ArchiveError::Busy(_) | ArchiveError::Damaged { .. } | ArchiveError::Unsupported { .. } => {
                Self::Refused(text)
            }
            ArchiveError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Self::NotFound(text),
            ArchiveError::Io { .. } => Self::Failed(text),
        }
    }
}
