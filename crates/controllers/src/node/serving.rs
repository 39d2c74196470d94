//! Whether the API is served to nodes, and for how long, as far as this process has seen.
//!
//! A node whose servers are all away is as silent as one that is dead. So a process that serves no API itself looks at the
//! leases of those that do ([`mainstay_api::presence`]): by its own clock, as it does at those of nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use mainstay_api::presence::{LABEL, LEASE_SECONDS, NAMESPACE, VALUE};
use mainstay_runtime::{Clock, Tasks, bounded_client};
use tokio_util::sync::CancellationToken;

use crate::objects::Objects;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Who is seen to renew nothing for so long is not there.
const SILENT: Duration = Duration::from_secs(LEASE_SECONDS as u64);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Serving {
    /// By this process: who can reconcile can serve.
    Here,
    /// By others.
    Elsewhere(Arc<Watched>),
}

/// What is seen of the servers of the API.
#[derive(Debug)]
pub(super) struct Watched {
    clock: Clock,
    began: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Whether any lease was ever looked for, and there was none: servers of an older version have none.
    unleased: bool,
    renewals: HashMap<String, String>,
    /// When some lease was last seen to change.
    heard: Option<Duration>,
    /// Since when there was always one that had changed lately.
    since: Duration,
    told: bool,
}

impl Serving {
    /// For how long the API was there without a gap; zero while nobody is known to serve it.
    pub(super) fn span(&self) -> Duration {
        match self {
            Self::Here => Duration::MAX,
            Self::Elsewhere(watched) => watched.span(),
        }
    }

    /// Looks at the servers' leases from now on.
    pub(super) fn elsewhere(client: Client, clock: Clock, tasks: &Tasks) -> Self {
        let watched = Arc::new(Watched::new(clock));
        let (objects, looking) = (Objects::new(bounded_client(client)), Arc::clone(&watched));
        drop(tasks.essential("servers", |stop| async move { looking.run(objects, stop).await }));
        Self::Elsewhere(watched)
    }
}

impl Watched {
    pub(super) fn new(clock: Clock) -> Self {
        Self { began: clock.since_boot(), clock, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn span(&self) -> Duration {
        let (now, seen) = (self.clock.since_boot(), self.seen());
        match seen.heard {
            _ if seen.unleased => Duration::MAX,
            Some(heard) if now.saturating_sub(heard) < SILENT => now.saturating_sub(seen.since),
            _ => Duration::ZERO,
        }
    }

    async fn run(&self, objects: Objects, stop: CancellationToken) {
        let label = format!("{LABEL}={VALUE}");
        loop {
            match objects.list::<Lease>(Some(NAMESPACE), Some(&label)).await {
                Ok(leases) => self.look(&leases),
                Err(failure) => tracing::debug!(error = failure.chain(), "the servers' leases cannot be read"),
            }
            self.tell();
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }

    /// Looks at all leases of servers. One that is seen for the first time says nothing: it may be old.
    pub(super) fn look(&self, leases: &[Lease]) {
        let (now, mut seen) = (self.clock.since_boot(), self.seen());
        seen.unleased = leases.is_empty();
        let renewal = |lease: &Lease| format!("{:?} {:?}", lease.metadata.uid, lease.spec);
        let found = leases.iter().map(|lease| (lease.metadata.name.clone().unwrap_or_default(), renewal(lease)));
        let before = std::mem::take(&mut seen.renewals);
        seen.renewals = found.collect();
        let is_news = |(name, renewal): (&String, &String)| before.get(name).is_some_and(|known| known != renewal);
        if seen.renewals.iter().any(is_news) {
            if seen.heard.is_none_or(|heard| now.saturating_sub(heard) >= SILENT) {
                seen.since = now;
            }
            seen.heard = Some(now);
        }
    }

    /// Says once that nobody serves, and once that somebody does again.
    fn tell(&self) {
        let (is_served, young) =
            (self.span() > Duration::ZERO, self.clock.since_boot().saturating_sub(self.began) < SILENT);
        let mut seen = self.seen();
        if is_served && std::mem::take(&mut seen.told) {
            tracing::info!("the API is served again: nodes that stay silent are given up");
        } else if !is_served && !young && !std::mem::replace(&mut seen.told, true) {
            tracing::warn!(
                "no server of the API is seen to be there: that nodes are silent says nothing, and none is given up"
            );
        }
    }
}
