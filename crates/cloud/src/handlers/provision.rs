//! `provision`: a machine with a volume in a network of its own, that is reached by name through a load balancer.

use std::sync::Arc;

use mainstay_runtime::Failure;
use mainstay_runtime::operation::{Handler, Step, Work};
use serde::{Deserialize, Serialize};

use super::effect::{Effect, Made};
use super::unsent::Told as _;
use crate::port::{Balancer, Compute, Dns, Instance, LoadBalancer, Net, Network, Record, Storage, Volume};
use crate::{Backends, Provider, Resilient};

/// The handler's name.
pub const HANDLER: &str = "provision";

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Site {
    /// What all of it is called, but for the DNS record.
    pub name: String,
    /// The DNS name.
    pub domain: String,
    /// The network's addresses, as ADDRESS/BITS.
    pub cidr: String,
    /// The volume's size.
    pub volume_bytes: u64,
    /// What the instance runs.
    pub image: String,
    /// Its CPUs, in thousandths.
    pub cpu_millis: u32,
    /// Its memory.
    pub memory_bytes: u64,
    /// The TCP port on which it is reached.
    pub port: u16,
}

/// See the module.
#[derive(Debug)]
pub struct Provision<V: Provider>(Arc<Backends<V>>);

impl<V: Provider> Provision<V> {
    /// Over these backends.
    pub const fn new(backends: Arc<Backends<V>>) -> Self {
        Self(backends)
    }
}

impl<V: Provider> Handler for Provision<V> {
    fn name(&self) -> &'static str {
        HANDLER
    }

    fn steps(&self, work: &Work) -> Result<Vec<Box<dyn Step>>, Failure> {
        let site: Arc<Site> = Arc::new(work.payload()?);
        let Backends { compute, network, storage, dns, load_balancer } = &*self.0;
        Ok(vec![
            make_network(network, &site).step(),
            make_volume(storage, &site).step(),
            launch(compute, &site).step(),
            name_it(dns, &site).step(),
            balance(load_balancer, &site).step(),
        ])
    }
}

fn make_network<P: Network>(port: &Resilient<P>, site: &Arc<Site>) -> Effect<P> {
    let (made, gone) = (Arc::clone(site), Arc::clone(site));
    Effect::new("network", port, move |port, at| {
        let site = Arc::clone(&made);
        async move { port.create(&at.key, &site.name, &Net { cidr: site.cidr.clone() }).await.told("make the network") }
    })
    .undone_by(move |port, key| {
        let site = Arc::clone(&gone);
        async move { port.delete(&key, &site.name).await }
    })
}

fn make_volume<P: Storage>(port: &Resilient<P>, site: &Arc<Site>) -> Effect<P> {
    let (made, gone) = (Arc::clone(site), Arc::clone(site));
    Effect::new("volume", port, move |port, at| {
        let site = Arc::clone(&made);
        let volume = Volume { size_bytes: site.volume_bytes };
        async move { port.create(&at.key, &site.name, &volume).await.told("make the volume") }
    })
    .undone_by(move |port, key| {
        let site = Arc::clone(&gone);
        async move { port.delete(&key, &site.name).await }
    })
}

fn launch<P: Compute>(port: &Resilient<P>, site: &Arc<Site>) -> Effect<P> {
    let (made, gone) = (Arc::clone(site), Arc::clone(site));
    Effect::new("instance", port, move |port, at| {
        let site = Arc::clone(&made);
        async move {
            let (network, volume) = (Made::by("network", &at)?, Made::by("volume", &at)?);
            let env = [("NETWORK", network.id), ("VOLUME", volume.id)];
            let instance = Instance {
                image: site.image.clone(),
                cpu_millis: site.cpu_millis,
                memory_bytes: site.memory_bytes,
                env: env.map(|(name, id)| (name.to_owned(), id.to_string())).into(),
            };
            port.launch(&at.key, &site.name, &instance).await.told("launch the instance")
        }
    })
    .undone_by(move |port, key| {
        let site = Arc::clone(&gone);
        async move { port.delete(&key, &site.name).await }
    })
}

fn name_it<P: Dns>(port: &Resilient<P>, site: &Arc<Site>) -> Effect<P> {
    /// Others may remember it for a minute: it changes when the instance does.
    const TTL_SECONDS: u32 = 60;
    let (made, gone) = (Arc::clone(site), Arc::clone(site));
    Effect::new("record", port, move |port, at| {
        let site = Arc::clone(&made);
        async move {
            let values = vec![inside(Made::by("instance", &at)?.id)];
            let record = Record { kind: "CNAME".to_owned(), ttl_seconds: TTL_SECONDS, values };
            port.put_record(&at.key, &site.domain, &record).await.told("put the record")
        }
    })
    .undone_by(move |port, key| {
        let site = Arc::clone(&gone);
        async move { port.delete_record(&key, &site.domain).await }
    })
}

fn balance<P: LoadBalancer>(port: &Resilient<P>, site: &Arc<Site>) -> Effect<P> {
    let (made, gone) = (Arc::clone(site), Arc::clone(site));
    Effect::new("load-balancer", port, move |port, at| {
        let site = Arc::clone(&made);
        async move {
            let targets = vec![format!("{}:{}", inside(Made::by("instance", &at)?.id), site.port)];
            let balancer = Balancer { port: site.port, targets };
            port.deploy(&at.key, &site.name, &balancer).await.told("deploy the load balancer")
        }
    })
    .undone_by(move |port, key| {
        let site = Arc::clone(&gone);
        async move { port.remove(&key, &site.name).await }
    })
}

/// The name by which an instance is known inside.
fn inside(instance: u64) -> String {
    format!("i-{instance}.internal")
}
