//! A standby: of several servers over one directory, in Kubernetes, the one that holds a Lease of the cluster serves.
//!
//! The lease says who waits and when it goes on; what is written is kept by the directory's own lock, which refuses a second
//! process whatever anybody thinks of the lease. A standby answers probes: it lives, and is not ready. A server that could not
//! renew the lease ends at once, before another has it: what it had answered is durable.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use mainstay_runtime::client::{CALL_DEADLINE, remote};
use mainstay_runtime::lease::kubernetes::{KubernetesLeases, Pace};
use mainstay_runtime::lease::{Held, Leases as _};
use mainstay_runtime::{Clock, KeyBackoff, Tasks};
use mainstay_store::StoreError;
use mainstay_store::sqlite::take_directory;
use tokio::time::sleep;

use super::args::ServeArgs;
use super::dir;
use super::front::Front;
use super::role::Role;

/// What a process ends with that has lost its lease.
const LOST: i32 = 1;
/// How long handing it back may take.
const LAST: Duration = Duration::from_secs(6);
/// Between two looks at whether another process still has the directory.
const LOOK: Duration = Duration::from_secs(1);

/// Which lease.
#[derive(Debug, Clone, Args)]
pub(crate) struct StandbyArgs {
    /// In Kubernetes: serve only while holding this Lease there. Of several servers over one --data-dir one serves, the others
    /// wait, healthy and not ready
    #[arg(long, value_name = "NAMESPACE/NAME", env = "MAINSTAY_STANDBY_LEASE")]
    standby_lease: Option<LeaseName>,
    /// The kubeconfig of the cluster that keeps the Lease; else the service account of this Pod
    #[arg(long, value_name = "FILE", env = "MAINSTAY_STANDBY_KUBECONFIG", requires = "standby_lease")]
    standby_kubeconfig: Option<PathBuf>,
}

/// The namespace and name of a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LeaseName {
    namespace: String,
    name: String,
}

impl FromStr for LeaseName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |part: &str| {
            let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
            let within = part.bytes().all(|c| plain(c) || c == b'-' || c == b'.');
            within
                && part.len() <= 253
                && part.bytes().next().is_some_and(plain)
                && part.bytes().last().is_some_and(plain)
        };
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("expected NAMESPACE/NAME of a Lease"),
        }
    }
}

/// The lease by which this process serves.
pub(super) struct Standby {
    held: Held,
    /// What keeps it.
    tasks: Tasks,
}

/// Waits for the lease, if one is asked for, and then until nobody has the directory.
///
/// # Errors
/// When the flags go together with none of what else is asked for, or the cluster cannot be known.
///
/// # Cancel safety
/// Who stops waiting serves nothing; a lease that was just taken is free after [`Pace::duration`].
pub(super) async fn lead(args: &ServeArgs, front: &Front) -> anyhow::Result<Option<Standby>> {
    let Some(lease) = args.standby.standby_lease.clone() else { return Ok(None) };
    ensure!(
        matches!(args.role, Role::All | Role::Api) && args.database.address()?.is_none(),
        "--standby-lease is for servers over one --data-dir: those that share a database need none, and nodes have their own"
    );
    dir::prepare(&args.data_dir)?;
    let client = remote(&cluster(&args.standby).await?, CALL_DEADLINE).context("make a client of the cluster")?;
    let tasks = Tasks::new();
    front.waits("standby", "another server has the lease");
    let shown = format!("{}/{}", lease.namespace, lease.name);
    anstream::println!(
        "mainstay {} waits for the lease {shown}, health at https://{}",
        env!("CARGO_PKG_VERSION"),
        front.address()
    );
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let leases =
        KubernetesLeases::new(client, &lease.namespace, &host, Pace::default(), Clock::system(), tasks.clone());
    // One for each process.
    let name: &'static str = Box::leak(lease.name.into_boxed_str());
    let held = loop {
        let held = acquired(&leases, name).await;
        if held.lost.clone().run_until_cancelled(free(&args.data_dir)).await.transpose()?.is_some() {
            break held;
        }
        tracing::warn!(lease = shown, "the lease was lost before its directory was free");
    };
    tracing::info!(lease = shown, term = held.term, "this process serves");
    let (lost, stop) = (held.lost.clone(), tasks.stopping());
    drop(tasks.spawn("standby", async move {
        if stop.run_until_cancelled(lost.cancelled()).await.is_none() {
            return;
        }
        tracing::error!(lease = shown, "the lease is lost: ending at once, for another to serve");
        #[expect(
            clippy::exit,
            reason = "all that was answered is durable, and another is about to open what this has open"
        )]
        std::process::exit(LOST)
    }));
    Ok(Some(Standby { held, tasks }))
}

impl Standby {
    /// Hands the lease back, for another to serve at once. To be called when everything is closed.
    pub(super) async fn leave(self) {
        self.held.release();
        self.tasks.shutdown(LAST).await.ok();
    }
}

/// How the cluster is reached.
async fn cluster(args: &StandbyArgs) -> anyhow::Result<kube::Config> {
    let Some(file) = &args.standby_kubeconfig else {
        return kube::Config::incluster().context("find the cluster of this Pod; elsewhere, name --standby-kubeconfig");
    };
    let named = || format!("--standby-kubeconfig {}", file.display());
    let kubeconfig = Kubeconfig::read_from(file).with_context(named)?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.with_context(named)
}

/// The lease, once it is had; whoever may not have it is told so, and goes on asking.
async fn acquired(leases: &KubernetesLeases, name: &'static str) -> Held {
    let mut backoff = KeyBackoff::default();
    loop {
        match leases.acquire(name).await {
            Ok(held) => return held,
            Err(failure) => {
                let pause = backoff.fail(rand::random());
                tracing::warn!(lease = name, error = failure.chain(), ?pause, "the lease cannot be had");
                sleep(pause).await;
            }
        }
    }
}

/// Waits until no process has the directory: one that is frozen, or that nobody can tell to end, may still.
async fn free(dir: &Path) -> anyhow::Result<()> {
    let mut told = false;
    loop {
        let taken = dir.to_owned();
        match tokio::task::spawn_blocking(move || take_directory(&taken).map(drop)).await? {
            Err(StoreError::Locked { pid }) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(pid, "the directory is still another process's, though the lease is not: waiting");
                }
            }
            outcome => return outcome.with_context(|| format!("take the directory {}", dir.display())),
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_named_by_namespace_and_name() {
        let named = LeaseName { namespace: "a".to_owned(), name: "b.c-1".to_owned() };
        assert_eq!("a/b.c-1".parse(), Ok(named));
        for wrong in ["", "a", "/a", "a/", "a/b/c", "A/b", "a/-b", "a/b."] {
            assert!(wrong.parse::<LeaseName>().is_err(), "{wrong}");
        }
    }
}
