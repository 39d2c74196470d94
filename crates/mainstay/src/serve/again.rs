//! What fails for a reason that passes is tried again until it does.

use std::future::Future;
use std::time::Duration;

use mainstay_runtime::Tasks;

/// Between two tries; the store itself looks for room as often.
const PAUSE: Duration = Duration::from_secs(1);

/// Tries until it succeeds, or fails for another reason than this; says once what that means.
///
/// # Errors
/// When it fails for another reason, or the process stops first.
pub(super) async fn while_so<T, F>(
    tasks: &Tasks,
    (is_so, meanwhile): (fn(&anyhow::Error) -> bool, &str),
    mut once: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let stop = tasks.stopping();
    let mut told = false;
    loop {
        let error = match once().await {
            Err(error) if is_so(&error) => error,
            outcome => return outcome,
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!("{error:#}: {meanwhile}");
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(error),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}
