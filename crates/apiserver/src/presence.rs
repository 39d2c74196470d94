//! The lease by which this process says that it serves the API, where others share its store: see [`mainstay_api::presence`].
//!
//! Node controllers in processes that serve no API count the silence of a node only while some server of the API is seen to
//! be there: to a node without one it says nothing. The renewal takes the way of every write, so that a server that stands
//! still, or cannot write, is one that is not there.

use std::path::Path;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use mainstay_api::node::hex;
use mainstay_api::presence::{LABEL, LEASE_SECONDS, NAMESPACE, VALUE};
use mainstay_runtime::client::bounded;
use mainstay_runtime::duty::{Tick, table};
use mainstay_runtime::{Class, Classify, Clock, Doing, Failure, Reason};
use serde_json::json;

use crate::auth::Identity;
use crate::inprocess;
use crate::keys::sha256;
use crate::server::ApiServer;

/// A lease that was not renewed for so long belongs to nobody any more. By clocks of different machines, so it is long; a
/// server whose lease was removed makes it anew.
const GONE_SECONDS: i64 = 3_600;

/// Keeps the lease of this process, and removes those of servers that are gone. Its name is that of its host and directory.
pub fn keep(server: &ApiServer, dir: &Path) {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let digest = hex(&sha256(format!("{host} {}", dir.display()).as_bytes()));
    let name = format!("apiserver-{}", &digest[..16]);
    let holder = format!("{name}_{:016x}", rand::random::<u64>());
    let client = inprocess::client(server.clone(), Identity::controller("api-server"), server.tasks().clone());
    let lease =
        Own { leases: Api::namespaced(client.clone(), NAMESPACE), name, holder, host, clock: server.clock().clone() };
    server.duties().start(&table::API_LEASE, move |_| {
        let lease = lease.clone();
        async move { lease.renew().await }
    });
    let clock = server.clock().clone();
    server.duties().start(&table::API_LEASES, move |tick| collect(client.clone(), clock.clone(), tick));
}

#[derive(Clone)]
struct Own {
    leases: Api<Lease>,
    name: String,
    holder: String,
    host: String,
    clock: Clock,
}

impl Own {
    async fn renew(&self) -> Result<(), Failure> {
        const DOING: &str = "renew the lease of this server of the API";
        let spec = json!({
            "holderIdentity": self.holder, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": MicroTime(self.clock.now()),
        });
        let (params, patch) = (PatchParams::default(), Patch::Merge(json!({ "spec": spec })));
        match bounded(self.leases.patch(&self.name, &params, &patch)).await {
            Err(error) if error.class() == Class::Terminal(Reason::NotFound) => {}
            patched => return patched.map(drop).doing(DOING),
        }
        let labels = json!({ LABEL: VALUE, "kubernetes.io/hostname": self.host });
        let lease =
            serde_json::from_value(json!({ "metadata": { "name": self.name, "labels": labels }, "spec": spec }));
        let lease = lease.map_err(|error| Failure::caused_by(Class::Terminal(Reason::Invalid), DOING, error))?;
        bounded(self.leases.create(&PostParams::default(), &lease)).await.map(drop).doing(DOING)
    }
}

/// Removes what nobody renews, each only if it is what was read.
async fn collect(client: Client, clock: Clock, tick: Tick) -> Result<(), Failure> {
    const DOING: &str = "remove leases of servers that are gone";
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let ours = ListParams::default().labels(&format!("{LABEL}={VALUE}")).limit(500);
    let now = clock.now().as_second();
    for lease in bounded(leases.list(&ours)).await.doing(DOING)? {
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        let is_over = renewed.is_none_or(|renewed| now.saturating_sub(renewed.0.as_second()) >= GONE_SECONDS);
        let Some(name) = lease.metadata.name.filter(|_| is_over) else { continue };
        tick.check()?;
        let read = Preconditions { uid: lease.metadata.uid, resource_version: lease.metadata.resource_version };
        let params = DeleteParams { preconditions: Some(read), ..DeleteParams::default() };
        match bounded(leases.delete(&name, &params)).await {
            Ok(_) => tracing::info!(lease = name, "the lease of a server that is gone was removed"),
            // It was renewed, or removed, meanwhile.
            Err(error) if matches!(error.class(), Class::Conflict | Class::Terminal(Reason::NotFound)) => {}
            Err(error) => return Err(error).doing(DOING),
        }
    }
    Ok(())
}
