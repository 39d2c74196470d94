//! Where the state is: in the data directory, or in a database that several replicas share.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_runtime::Tasks;
use mainstay_store::postgres::Address;
use mainstay_store::sqlite::{Options, SqliteStore, backup, moved, take_directory};
use mainstay_store::{PostgresStore, Store, StoreError, postgres};

use super::front::Front;
use super::{again, room};

/// How often it is looked whether the store has ended by itself.
const LOOK: Duration = Duration::from_secs(1);

/// The store, and what keeps other processes out of the data directory.
pub(super) type State = (Arc<dyn Store>, Option<Arc<File>>);

/// Opens it, once the database can be reached; `further` is a drill's step of its schema.
///
/// # Errors
/// When another process has the directory, the database cannot be used, or the process is told to stop first.
pub(super) async fn opened(
    (tasks, front): (&Tasks, &Front),
    dir: PathBuf,
    database: Option<Address>,
    further: Option<postgres::Step>,
) -> anyhow::Result<State> {
    match &database {
        Some(_) => front.begins("store", "waiting for the database: it has not answered yet"),
        None => front.begins("store", "it is being opened"),
    }
    waited_for((tasks, front), is_away, || {
        let (dir, database, further) = (dir.clone(), database.clone(), further.clone());
        async { tokio::task::spawn_blocking(move || open(&dir, database.as_ref(), further)).await? }
    })
    .await
}

/// Reads or writes at the start what nothing is served without, where state is shared as soon as the database gives it.
///
/// # Errors
/// When it fails for another reason, or the process is told to stop first.
pub(super) async fn needed<T, F>(
    (tasks, front): (&Tasks, &Front),
    is_shared: bool,
    once: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    waited_for((tasks, front), if is_shared { room::passing(true) } else { |_| false }, once).await
}

/// Tries until the database gives it, and tells those who ask what the start waits for.
async fn waited_for<T, F>(
    (tasks, front): (&Tasks, &Front),
    passes: fn(&anyhow::Error) -> bool,
    mut once: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    again::while_so(tasks, (passes, "nothing is served until it can be reached"), || {
        let once = once();
        async move {
            let outcome = once.await;
            if let Err(error) = &outcome
                && passes(error)
            {
                front.waits("store", &format!("waiting for the database: {error:#}"));
            }
            outcome
        }
    })
    .await
}

/// Whether it failed since the database is away.
fn is_away(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Away(_)))
}

/// Opens it; `further` is a drill's step of the schema of a database.
///
/// # Errors
/// When another process has the directory, or the database cannot be used.
fn open(dir: &Path, database: Option<&Address>, further: Option<postgres::Step>) -> anyhow::Result<State> {
    let Some(address) = database else {
        let store =
            SqliteStore::open(Options::new(dir)).with_context(|| format!("open the store in {}", dir.display()))?;
        return Ok((store, None));
    };
    let held = take_directory(dir).with_context(|| format!("take the directory {}", dir.display()))?;
    let state = dir.join(backup::STATE);
    ensure!(
        !state.exists() || moved::is_moved(dir),
        "{} holds a state of its own, which would be left behind; move it with `mainstay migrate`, or name another \
         --data-dir",
        state.display()
    );
    let replica = replica(dir).with_context(|| format!("name the replica of {}", dir.display()))?;
    let seen = Some(dir.join("seen.json"));
    let options = postgres::Options { seen, further, ..postgres::Options::new(address.clone(), replica.as_str()) };
    let store = PostgresStore::open(options).with_context(|| format!("open the database {address}"))?;
    tracing::info!(%replica, database = %address, "state is shared");
    Ok((store, Some(Arc::new(held))))
}

/// What this directory's process is called among the replicas: chosen once.
pub(super) fn replica(dir: &Path) -> std::io::Result<String> {
    let path = dir.join("replica");
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        found => return found.map(|name| name.trim().to_owned()),
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let name = format!(
        "{}-{}",
        if host.is_empty() { "replica" } else { &host },
        &uuid::Uuid::new_v4().simple().to_string()[..12]
    );
    let temporary = dir.join("replica.new");
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{name}")?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    Ok(name)
}

/// A store that ends by itself takes the process along: another process has taken its place.
pub(super) fn guard(tasks: &Tasks, store: &Arc<dyn Store>) {
    let store = Arc::clone(store);
    drop(tasks.essential("state", |stop| async move {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            if matches!(store.ready(), Err(StoreError::Closed)) {
                tracing::error!("the store has ended");
                return;
            }
        }
    }));
}
