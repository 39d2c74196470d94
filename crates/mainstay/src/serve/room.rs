//! A disk without room, and a database elsewhere that does not answer in time: what is to be written at a start waits until that
//! is over, and reads are served meanwhile.

use std::future::Future;
use std::io::ErrorKind;

use mainstay_runtime::Tasks;
use mainstay_store::StoreError;

use super::again;

/// Whether it failed since there was no room on the disk.
pub(super) fn is_lacking(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(StoreError::Full))
            || cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    })
}

/// Whether it failed since a database elsewhere had no room, or gave no answer in time.
fn is_slow(error: &anyhow::Error) -> bool {
    let passes = |error: &StoreError| matches!(error, StoreError::Away(_) | StoreError::Busy | StoreError::Database(_));
    is_lacking(error) || error.chain().any(|cause| cause.downcast_ref().is_some_and(passes))
}

/// Whether a write at the start is to be tried again. Where state is shared the other side may only be slow; what was not
/// answered is written again, which must do no harm.
pub(super) fn passing(is_shared: bool) -> fn(&anyhow::Error) -> bool {
    if is_shared { is_slow } else { is_lacking }
}

/// Writes as soon as that is possible.
///
/// # Errors
/// When it fails for another reason, or the process stops first.
pub(super) async fn waited_for<T, F>(tasks: &Tasks, is_shared: bool, write: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let meanwhile = "only reads are served, and sessions are left to themselves, until that is over";
    again::while_so(tasks, (passing(is_shared), meanwhile), write).await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use anyhow::Context as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_lacks_room_is_tried_until_there_is_some_and_nothing_else_is() {
        let tasks = Tasks::new();
        let tries = Cell::new(0);
        let write = || {
            tries.set(tries.get() + 1);
            let outcome: anyhow::Result<u32> = match tries.get() {
                1 => Err(StoreError::Full).context("raise"),
                2 => Err(io::Error::from(ErrorKind::StorageFull)).context("write").context("start"),
                3 => Ok(7),
                _ => Err(StoreError::Busy).context("raise"),
            };
            std::future::ready(outcome)
        };
        assert_eq!(waited_for(&tasks, false, write).await.unwrap(), 7);
        assert_eq!(tries.get(), 3);
        assert!(!is_lacking(&waited_for(&tasks, false, write).await.unwrap_err()));
        assert_eq!(tries.get(), 4);
        tasks.stop();
        tries.set(0);
        assert!(is_lacking(&waited_for(&tasks, false, write).await.unwrap_err()));
        assert_eq!(tries.get(), 1, "a process that stops waits for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_elsewhere_that_is_slow_is_waited_for_and_a_file_that_fails_is_not() {
        let (tasks, tries) = (Tasks::new(), Cell::new(0));
        let failed = || StoreError::Database(std::sync::Arc::new(io::Error::other("no answer")));
        let write = || {
            tries.set(tries.get() + 1);
            let outcome: anyhow::Result<u32> = match tries.get() {
                1 => Err(failed()).context("store the built-in roles"),
                2 => Err(StoreError::Busy).context("count the start"),
                3 => Err(StoreError::Away(std::sync::Arc::new(io::Error::other("gone")))).context("count the start"),
                4 => Ok(7),
                _ => Err(StoreError::Closed).context("count the start"),
            };
            std::future::ready(outcome)
        };
        assert_eq!(waited_for(&tasks, true, write).await.unwrap(), 7);
        assert!(waited_for(&tasks, true, write).await.is_err(), "nobody opens it again");
        assert_eq!(tries.replace(0), 5);
        assert!(waited_for(&tasks, false, write).await.is_err());
        assert_eq!(tries.get(), 1);
    }
}
