//! Each controller runs where its lease is held: once in the whole installation.
//!
//! A term has tasks, a client and a fencing token of its own. The client's writes carry lease and term, so what is still under
//! way when another leads is refused. When the term is over, nothing new is begun, what runs is waited for, and the lease is
//! handed back; then it is wanted again.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use mainstay_runtime::lease::{Held, Leases};
use mainstay_runtime::{Clock, KeyBackoff, Tasks};
use tokio_util::sync::CancellationToken;

use crate::driver::{Metrics, Surroundings};
use crate::reconcile::FencingToken;

/// How long what runs may take to its end when a term is over; each call has a shorter bound of its own.
const LAST: Duration = Duration::from_secs(20);
/// After so long without its lease a controller counts as ready: another process leads.
const STANDBY: Duration = Duration::from_secs(1);

/// Gives the client of a service account in `mainstay-system`, whose writes carry `LEASE/TERM`.
pub type Clients = Arc<dyn Fn(&str, &str) -> Client + Send + Sync>;

/// What all controllers need.
#[derive(Clone)]
pub struct Office {
    /// Owns the tasks.
    pub tasks: Tasks,
    /// Tells plans the time.
    pub clock: Clock,
    /// Who may lead.
    pub leases: Arc<dyn Leases>,
    /// How they reach the API.
    pub clients: Clients,
    /// Whether this process serves the API itself: then it is there for whoever is to be heard.
    pub serves: bool,
}

impl std::fmt::Debug for Office {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Office").field("leases", &self.leases).finish_non_exhaustive()
    }
}

/// Begins a term: with what belongs to it, and the client of the controller's account.
type Begin = Box<dyn Fn(&Surroundings, Client, Arc<Metrics>) + Send + Sync>;

/// Runs a controller of a name, as an account, in every term of its lease, which has the controller's name. An essential task.
pub(crate) fn lead(
    office: &Office,
    name: &'static str,
    account: &'static str,
    begin: impl Fn(&Surroundings, Client, Arc<Metrics>) + Send + Sync + 'static,
) -> (&'static str, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    // That it leads, or another does.
    metrics.first_lists.expect();
    let told = (name, Arc::clone(&metrics));
    let (office, begin): (Office, Begin) = (office.clone(), Box::new(begin));
    let tasks = office.tasks.clone();
    drop(tasks.essential("leader", |stop| async move {
        let mut backoff = KeyBackoff::default();
        while let Some(held) = wait(&office, (name, &metrics), &mut backoff, &stop).await {
            backoff.reset();
            term(&office, (account, &metrics), held, &begin, &stop).await;
        }
    }));
    told
}

/// The lease; `None` when the process stops first.
async fn wait(
    office: &Office,
    (name, metrics): (&'static str, &Metrics),
    backoff: &mut KeyBackoff,
    stop: &CancellationToken,
) -> Option<Held> {
    loop {
        let acquiring = office.leases.acquire(name);
        tokio::pin!(acquiring);
        let acquired = tokio::select! {
            acquired = &mut acquiring => acquired,
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(STANDBY) => {
                metrics.first_lists.came();
                stop.run_until_cancelled(acquiring).await?
            }
        };
        match acquired {
            Ok(held) => return Some(held),
            Err(error) => {
                let pause = backoff.fail(rand::random());
                tracing::warn!(lease = name, %error, ?pause, "a lease could not be had");
                stop.run_until_cancelled(tokio::time::sleep(pause)).await?;
            }
        }
    }
}

async fn term(
    office: &Office,
    (account, metrics): (&'static str, &Arc<Metrics>),
    held: Held,
    begin: &Begin,
    stop: &CancellationToken,
) {
    let tasks = Tasks::new();
    let around = Surroundings { tasks: tasks.clone(), clock: office.clock.clone(), fence: FencingToken(held.term) };
    let fence = format!("{}/{}", held.name, held.term);
    metrics.first_lists.none();
    begin(&around, (office.clients)(account, &fence), Arc::clone(metrics));
    let ended = tasks.stopping();
    tokio::select! {
        () = stop.cancelled() => {}
        () = held.lost.cancelled() => tracing::info!(lease = held.name, term = held.term, "the term is over"),
        () = ended.cancelled() => tracing::warn!(lease = held.name, term = held.term, "the term is over: another leads"),
    }
    if let Err(unfinished) = tasks.shutdown(LAST).await {
        tracing::warn!(lease = held.name, %unfinished, "not all that was under way has ended");
    }
    // Nobody waits for lists of a term that is over.
    metrics.first_lists.none();
    held.release();
}
