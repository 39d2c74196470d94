//! Whose backends they are: one provider gives all five.

use std::fmt::Debug;
use std::sync::Arc;

use mainstay_runtime::client::Http;
use mainstay_runtime::resilience::gates::Gates;

use crate::drill::{self, Drill};
use crate::port::{Compute, Dns, LoadBalancer, Network, Storage};
use crate::{CloudError, Resilient};

/// A backend for each port.
pub trait Provider: Debug + Send + Sync + 'static {
    /// Machines and tasks.
    type Compute: Compute;
    /// Networks.
    type Network: Network;
    /// Volumes.
    type Storage: Storage;
    /// Names.
    type Dns: Dns;
    /// Load balancers.
    type LoadBalancer: LoadBalancer;
}

/// A provider's backends, each behind its gates.
#[derive(Debug)]
pub struct Backends<V: Provider> {
    /// Machines and tasks.
    pub compute: Resilient<V::Compute>,
    /// Networks.
    pub network: Resilient<V::Network>,
    /// Volumes.
    pub storage: Resilient<V::Storage>,
    /// Names.
    pub dns: Resilient<V::Dns>,
    /// Load balancers.
    pub load_balancer: Resilient<V::LoadBalancer>,
}

/// drill-backend is all five.
#[derive(Debug)]
pub enum AllDrill {}

impl Provider for AllDrill {
    type Compute = Drill<drill::Compute>;
    type Network = Drill<drill::Network>;
    type Storage = Drill<drill::Storage>;
    type Dns = Drill<drill::Dns>;
    type LoadBalancer = Drill<drill::LoadBalancer>;
}

impl Backends<AllDrill> {
    /// The drill-backend at `url`: scheme, host and port; `gates` are the process's.
    ///
    /// # Errors
    /// [`CloudError::Unspeakable`] when that is no URL.
    pub fn drill(http: &Http, url: &str, gates: &Arc<Gates>) -> Result<Self, CloudError> {
        Ok(Self {
            compute: Resilient::new(Drill::new(http.clone(), url)?, Arc::clone(gates)),
            network: Resilient::new(Drill::new(http.clone(), url)?, Arc::clone(gates)),
            storage: Resilient::new(Drill::new(http.clone(), url)?, Arc::clone(gates)),
            dns: Resilient::new(Drill::new(http.clone(), url)?, Arc::clone(gates)),
            load_balancer: Resilient::new(Drill::new(http.clone(), url)?, Arc::clone(gates)),
        })
    }
}
