//! The term of a node's agent: one agent per node, the newest.
//!
//! Each start takes the next term of the node's lease, by compare-and-swap, above all that a sandbox of its directory has
//! seen. The term goes with whatever it writes (the API refuses an older one) and with each order to a shim (which does so,
//! too). It renews the lease for as long as it lives; when it finds that somebody else has taken it, its time is over.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use mainstay_api::names::{FENCE_HEADER, NODE_LEASES};
use mainstay_api::node::{LEASE_SECONDS, RENEW_SECONDS, fence};
use mainstay_runtime::client::bounded;
use mainstay_runtime::{Class, Classify, Clock, Doing, Failure, Reason};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two renewals; also how long one may take. After one that failed the next comes sooner, and asks another server where
/// there are several.
const RENEW: Duration = Duration::from_secs(RENEW_SECONDS as u64);

const DOING: &str = "renew the node's lease";

/// A term that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The node.
    pub node: String,
    /// Its number, higher than that of every agent before.
    pub number: u64,
    /// Who took it.
    holder: String,
}

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), NODE_LEASES)
}

/// Takes the next term of a node, above `newest`. The client says no term yet.
///
/// # Errors
/// [`Class::Conflict`] when somebody else took one at the same moment; what the API refuses.
pub async fn take(client: &Client, node: &str, newest: u64, clock: &Clock) -> Result<Term, Failure> {
    let doing = || format!("take the next term of node {node}");
    let mut lease = bounded(leases(client).get(node)).await.doing(doing())?;
    let spec = lease.spec.get_or_insert_default();
    let last = u64::try_from(spec.lease_transitions.unwrap_or(0)).unwrap_or(0);
    let number = last.max(newest) + 1;
    let holder = format!("{node}-{:016x}", rand::random::<u64>());
    let now = Some(MicroTime(clock.now()));
    spec.holder_identity = Some(holder.clone());
    spec.lease_duration_seconds = i32::try_from(LEASE_SECONDS).ok();
    (spec.acquire_time, spec.renew_time) = (now.clone(), now);
    let number_in_lease = i32::try_from(number)
        .map_err(|error| Failure::caused_by(Class::Terminal(Reason::Invalid), "count one more term", error))?;
    spec.lease_transitions = Some(number_in_lease);
    // It has the version that was read: of two who take it at once one is refused.
    bounded(leases(client).replace(node, &PostParams::default(), &lease)).await.doing(doing())?;
    Ok(Term { node: node.to_owned(), number, holder })
}

/// A client that says the term with each of its requests. Needs a Tokio runtime.
pub fn fenced(client: Client, term: &Term) -> Client {
    let namespace = client.default_namespace().to_owned();
    let value = http::HeaderValue::from_str(&fence(&term.node, term.number)).ok();
    let service = tower::service_fn(move |mut request: http::Request<kube::client::Body>| {
        let client = client.clone();
        if let Some(value) = &value {
            request.headers_mut().insert(FENCE_HEADER, value.clone());
        }
        async move { client.send(request).await }
    });
    Client::new(service, namespace)
}

/// Says what the node runs.
///
/// # Errors
/// What the API refuses.
pub async fn introduce(client: &Client, node: &str, version: &str) -> Result<(), Failure> {
    let system = rustix::system::uname();
    let body = json!({ "status": { "nodeInfo": {
        "kubeletVersion": version, "architecture": std::env::consts::ARCH, "operatingSystem": std::env::consts::OS,
        "kernelVersion": system.release().to_string_lossy(),
    } } });
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    let (params, patch) = (PatchParams::default(), Patch::Merge(&body));
    bounded(nodes.patch_status(node, &params, &patch)).await.map(drop).doing("say what this node runs")
}

/// A lease that is kept.
pub(super) struct Kept {
    /// The API; it says the term.
    pub(super) client: Client,
    /// The term that was taken.
    pub(super) term: Term,
    /// The time.
    pub(super) clock: Clock,
    /// When it was last renewed.
    pub(super) renewed: watch::Sender<Option<Instant>>,
}

impl Kept {
    /// Renews the lease until told to stop, or until somebody else has it.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let mut silent = false;
        loop {
            let began = Instant::now();
            let renewed = tokio::time::timeout(RENEW, self.renew()).await;
            let failure = match renewed {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(failure),
                Err(late) => Some(Failure::caused_by(Class::Indeterminate, DOING, late)),
            };
            let pause = if failure.is_none() { RENEW } else { RENEW.mul_f64(rand::random_range(0.1..0.4)) };
            match failure {
                None => {
                    self.renewed.send_replace(Some(began));
                    if std::mem::take(&mut silent) {
                        tracing::info!(node = self.term.node, "the node's lease is renewed again");
                    }
                }
                Some(failure) if failure.class() == Class::Fenced => {
                    return tracing::error!(error = failure.chain(), "the term of this node's agent is over");
                }
                Some(failure) => {
                    if !std::mem::replace(&mut silent, true) {
                        tracing::warn!(error = failure.chain(), "the node's lease is not renewed; sandboxes go on");
                    }
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// One renewal: of a lease that is still ours, on the version that was read.
    async fn renew(&self) -> Result<(), Failure> {
        let (api, term) = (leases(&self.client), &self.term);
        let mut lease = bounded(api.get(&term.node)).await.doing(DOING)?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&term.holder) {
            let holder = spec.holder_identity.as_deref().unwrap_or("nobody");
            return Err(Failure::new(Class::Fenced, format!("{DOING}: {holder} has it")));
        }
        spec.renew_time = Some(MicroTime(self.clock.now()));
        bounded(api.replace(&term.node, &PostParams::default(), &lease)).await.map(drop).doing(DOING)
    }
}
