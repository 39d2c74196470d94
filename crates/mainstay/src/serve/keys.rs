//! The keys of a process that has a store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_apiserver::keys::{Keys, Opening};
use mainstay_runtime::failure::chain_of;
use mainstay_store::Store;

use super::process::Process;
use super::{dir, state};

/// How long a new version of a key is known before it is used: twice as long as any replica takes to learn of it.
const SETTLE: Duration = Duration::from_secs(10);

/// Opens the keys in the store. Where several replicas share it, each was given the key file; else it is made at the first
/// start.
///
/// # Errors
/// When the key file is missing, not safe, or not the one that wrapped them.
pub(super) async fn open(process: &Process, store: &Arc<dyn Store>, shared: bool) -> anyhow::Result<Arc<Keys>> {
    let (data_dir, named) = (process.dir(), process.args.key_file.as_deref());
    ensure!(
        !shared || named.is_some(),
        "--database needs --key-file FILE, the same key for every replica: openssl rand 32 > FILE; chmod 600 FILE"
    );
    let own = dir::key(&data_dir);
    let file = named.unwrap_or(&own);
    let once = || async {
        let opening = Opening {
            file,
            may_make: named.is_none(),
            data_dir: (!shared).then_some(&data_dir),
            settle: if shared { SETTLE } else { Duration::ZERO },
        };
        let keys = Keys::open(store.clone(), opening, process.clock.now()).await;
        keys.with_context(|| format!("open the keys with the key file {}", file.display()))
    };
    state::needed((&process.tasks, &process.front), shared, once).await.map(Arc::new)
}

/// Writes the admin's kubeconfig again whenever the keys change: the authorities and the token in it.
pub(super) fn keep_kubeconfig(process: &Process, keys: &Arc<Keys>, url: String) {
    let (keys, path, stopping) = (Arc::clone(keys), dir::kubeconfig(&process.dir()), process.tasks.stopping());
    let mut changes = keys.changes();
    drop(process.tasks.spawn("kubeconfig", async move {
        while let Some(Ok(())) = stopping.run_until_cancelled(changes.changed()).await {
            if let Err(error) = keys.write_kubeconfig(&path, &url) {
                tracing::warn!(
                    error = chain_of(&error),
                    "the admin kubeconfig could not be written; a start repeats it"
                );
            }
        }
    }));
}
