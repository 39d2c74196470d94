//! The term of a node's agent: one agent per node, the newest.
//!
//! Each start takes the next term of the node's lease, by compare-and-swap, above all that a sandbox of its directory has
//! seen. Only a Lease that another machine may still renew is not taken: of two that are one node, copies of one directory say,
//! the one that has it keeps it, and the other waits until it was not renewed for the time that it lasts. The term goes with whatever it writes (the API refuses an older one) and with each order to a shim (which does so,
//! too). It renews the lease for as long as it lives; when it finds that somebody else has taken it, its time is over.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use mainstay_api::names::{FENCE_HEADER, JOIN, MACHINE, NODE_LEASES, PLACE};
use mainstay_api::node::{LEASE_SECONDS, RENEW_SECONDS, fence};
use mainstay_runtime::client::bounded;
use mainstay_runtime::{Class, Classify, Clock, Doing, Failure, Reason, clock};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::layout::Layout;

/// Between two renewals; also how long one may take. After one that failed the next comes sooner, and asks another server where
/// there are several.
const RENEW: Duration = Duration::from_secs(RENEW_SECONDS as u64);

const DOING: &str = "renew the node's lease";

/// Between two looks at a lease that another machine may still renew.
const LOOK: Duration = Duration::from_secs(1);
/// Who was not seen to renew it for so long has it no more.
const LEASE: Duration = Duration::from_secs(LEASE_SECONDS as u64);

/// Whose agent this is, so that machines which are one node are told apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The id that is kept in its directory.
    pub id: String,
    /// Where that directory is: boot and inode. A copy of it is elsewhere; one process at a time has it in one place.
    pub place: String,
    /// The number of its join; `None` for a server's own agent.
    pub join: Option<u64>,
    /// Nobody else can write what it writes: its process alone has the store.
    pub alone: bool,
}

impl Machine {
    /// The machine with this directory of an agent, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let id = Layout::new(dir.to_owned())?.instance()?;
        let place = format!("{}:{}", clock::boot_id().unwrap_or_default(), std::fs::metadata(dir)?.ino());
        Ok(Self { id, place, join: None, alone: false })
    }

    /// Another machine that may renew this lease, for messages.
    fn other(&self, lease: &Lease) -> Option<String> {
        let said = |name: &str| lease.metadata.annotations.as_ref()?.get(name).filter(|text| !text.is_empty());
        let holder = lease.spec.as_ref()?.holder_identity.clone()?;
        // An agent of an older version says nothing of itself.
        let (id, place) = (said(MACHINE)?, said(PLACE)?);
        // Who joined before this one did is refused by now.
        let join = said(JOIN).and_then(|number| number.parse::<u64>().ok());
        let is_over = join.zip(self.join).is_some_and(|(its, ours)| its < ours);
        let is_this = *id == self.id && *place == self.place;
        (!self.alone && !is_over && !is_this).then_some(holder)
    }

    /// Writes it down in the lease that it takes.
    fn sign(&self, lease: &mut Lease) {
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert(MACHINE.to_owned(), self.id.clone());
        annotations.insert(PLACE.to_owned(), self.place.clone());
        match self.join {
            Some(number) => annotations.insert(JOIN.to_owned(), number.to_string()),
            None => annotations.remove(JOIN),
        };
    }
}

/// What was seen of a lease that another machine may still renew.
#[derive(Debug, Default)]
struct Watched {
    renewal: Option<(String, Instant)>,
}

impl Watched {
    /// Whether it was not renewed for the time that it lasts, by what was seen here alone.
    fn is_over(&mut self, lease: &Lease) -> bool {
        let renewal = format!("{:?}", lease.spec);
        match &self.renewal {
            Some((seen, since)) if *seen == renewal => since.elapsed() >= LEASE,
            _ => {
                self.renewal = Some((renewal, Instant::now()));
                false
            }
        }
    }
}

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

/// Takes the next term of a node, above `newest`, once no other machine renews its lease any more. The client says no term yet.
///
/// # Errors
/// [`Class::Conflict`] when somebody else took one at the same moment; what the API refuses, [`Class::Fenced`] when another
/// machine has joined under the node's name.
///
/// # Cancel safety
/// A term may have been taken, and nobody has it.
pub async fn take(client: &Client, node: &str, newest: u64, machine: &Machine, clock: &Clock) -> Result<Term, Failure> {
    let doing = || format!("take the next term of node {node}");
    let (mut watched, mut told) = (Watched::default(), false);
    let mut lease = loop {
        let lease = bounded(leases(client).get(node)).await.doing(doing())?;
        match machine.other(&lease) {
            Some(holder) if !watched.is_over(&lease) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        node,
                        holder,
                        "another machine may be this node, with a copy of this directory or the same name: waiting until it has \
                         not renewed its lease for {} s; give one of the two another name, in a directory of its own",
                        LEASE_SECONDS
                    );
                }
                tokio::time::sleep(LOOK).await;
            }
            _ => break lease,
        }
    };
    machine.sign(&mut lease);
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
    /// Cancelled when somebody else has it.
    pub(super) over: CancellationToken,
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
                    tracing::error!(error = failure.chain(), "the term of this node's agent is over");
                    return self.over.cancel();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str, place: &str, join: Option<u64>) -> Machine {
        Machine { id: id.to_owned(), place: place.to_owned(), join, alone: false }
    }

    #[test]
    fn a_lease_is_taken_at_once_where_nobody_else_can_renew_it() {
        let mut lease = Lease::default();
        let this = machine("m", "here", Some(2));
        assert_eq!(this.other(&lease), None, "nobody has had it");
        lease.spec.get_or_insert_default().holder_identity = Some("box-1".to_owned());
        assert_eq!(this.other(&lease), None, "an agent of an older version has");
        for (name, holder, taker, waits) in [
            ("itself", this.clone(), this.clone(), false),
            ("a copy of it", machine("m", "elsewhere", Some(2)), this.clone(), true),
            ("another machine", machine("other", "here", Some(2)), this.clone(), true),
            ("one that joined before", machine("other", "here", Some(1)), this.clone(), false),
            ("one that joined later", machine("other", "here", Some(3)), this.clone(), true),
            ("a server's own", machine("other", "here", None), this.clone(), true),
            ("a server's own, a server's own", machine("other", "here", None), machine("m", "here", None), true),
            ("one that is not there", machine("other", "here", None), Machine { alone: true, ..this.clone() }, false),
        ] {
            holder.sign(&mut lease);
            assert_eq!(taker.other(&lease).is_some(), waits, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_machines_lease_is_over_when_it_was_seen_unchanged_for_as_long_as_it_lasts() {
        let (mut lease, mut watched) = (Lease::default(), Watched::default());
        let wait = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        assert!(!watched.is_over(&lease));
        wait(11).await;
        assert!(!watched.is_over(&lease));
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(mainstay_runtime::Timestamp::UNIX_EPOCH));
        assert!(!watched.is_over(&lease), "it was renewed, whatever the time in it");
        wait(11).await;
        assert!(!watched.is_over(&lease));
        wait(1).await;
        assert!(watched.is_over(&lease));
    }

    #[test]
    fn a_directory_is_told_from_its_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (one, copy) = (dir.path().join("one"), dir.path().join("copy"));
        let found = Machine::of(&one).unwrap();
        assert_eq!(Machine::of(&one).unwrap(), found);
        Machine::of(&copy).unwrap();
        std::fs::copy(one.join("instance"), copy.join("instance")).unwrap();
        let copied = Machine::of(&copy).unwrap();
        assert!(copied.id == found.id && copied.place != found.place, "{found:?} {copied:?}");
    }
}
