//! How replicas tell each other of operations, where that is not left to the database.

use anyhow::{Context as _, ensure};
use mainstay_apiserver::keys::rotation::key_id;
use mainstay_operations::turns::{Metrics, Turns};

use super::process::Process;
use super::state;

/// The turns over the Redis that is named, if one is. Nothing is sent yet: whether it is there does not matter for the start.
///
/// # Errors
/// When its address cannot be used, or the state is not shared.
pub(super) fn open(process: &Process, shared: bool, metrics: Metrics) -> anyhow::Result<Option<Turns>> {
    let Some(address) = process.args.queue.address()? else { return Ok(None) };
    ensure!(
        shared,
        "--queue is for replicas that share a database (--database postgres://...); what one process does, it knows by itself"
    );
    let dir = process.dir();
    let consumer = state::replica(&dir).with_context(|| format!("name the replica of {}", dir.display()))?;
    let file = process.args.key_file.as_deref().context("--queue needs --key-file FILE")?;
    // All replicas have this key, and nobody else does: so two installations can share a Redis.
    let place = key_id(file).context("name the place of the turns")?;
    tracing::info!(redis = %address, "turns of operations go over Redis");
    Ok(Some(Turns::new(address, &place, &consumer, metrics)))
}
