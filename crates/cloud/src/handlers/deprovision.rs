//! `deprovision`: removes what `provision` made, in reverse. What is not there is as good as removed.

use std::sync::Arc;

use mainstay_runtime::Failure;
use mainstay_runtime::operation::{Handler, Step, Work};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::unsent::Told as _;
use crate::port::{Compute as _, Dns as _, LoadBalancer as _, Network as _, Storage as _};
use crate::{Backends, Provider};

/// The handler's name.
pub const HANDLER: &str = "deprovision";

/// What is to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Site {
    /// What all of it is called, but for the DNS record.
    pub name: String,
    /// The DNS name.
    pub domain: String,
}

/// See the module.
#[derive(Debug)]
pub struct Deprovision<V: Provider>(Arc<Backends<V>>);

impl<V: Provider> Deprovision<V> {
    /// Over these backends.
    pub const fn new(backends: Arc<Backends<V>>) -> Self {
        Self(backends)
    }
}

/// `STEP: PORT.METHOD(NAME)`: a step that has that effect.
macro_rules! removals {
    ($site:ident: $($step:literal: $port:ident.$method:ident($name:ident),)+) => {
        vec![$({
            let site = Arc::clone(&$site);
            let removal = Effect::new($step, $port, move |port, at| {
                let site = Arc::clone(&site);
                async move { port.$method(&at.key, &site.$name).await.told($step) }
            });
            removal.step()
        },)+]
    };
}

impl<V: Provider> Handler for Deprovision<V> {
    fn name(&self) -> &'static str {
        HANDLER
    }

    fn steps(&self, work: &Work) -> Result<Vec<Box<dyn Step>>, Failure> {
        let site: Arc<Site> = Arc::new(work.payload()?);
        let Backends { compute, network, storage, dns, load_balancer } = &*self.0;
        Ok(removals! { site:
            "remove-load-balancer": load_balancer.remove(name),
            "remove-record": dns.delete_record(domain),
            "remove-instance": compute.delete(name),
            "remove-volume": storage.delete(name),
            "remove-network": network.delete(name),
        })
    }
}
