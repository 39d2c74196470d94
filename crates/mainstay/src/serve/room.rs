//! A disk without room: what is to be written at a start waits for some, and reads are served meanwhile.

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

/// Writes as soon as there is room.
///
/// # Errors
/// When it fails for another reason, or the process stops first.
pub(super) async fn waited_for<T, F>(tasks: &Tasks, write: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let meanwhile = "only reads are served, and sessions are left to themselves, until there is room";
    again::while_so(tasks, (is_lacking, meanwhile), write).await
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
        assert_eq!(waited_for(&tasks, write).await.unwrap(), 7);
        assert_eq!(tries.get(), 3);
        assert!(!is_lacking(&waited_for(&tasks, write).await.unwrap_err()));
        assert_eq!(tries.get(), 4);
        tasks.stop();
        tries.set(0);
        assert!(is_lacking(&waited_for(&tasks, write).await.unwrap_err()));
        assert_eq!(tries.get(), 1, "a process that stops waits for nothing");
    }
}
