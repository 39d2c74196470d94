//! Load balancers.

use std::future::Future;

use mainstay_runtime::operation::EffectKey;
use serde::{Deserialize, Serialize};

use super::{Backend, Receipt, effect};
use crate::limits::load_balancer::{EFFECT, LONG};
use crate::resilient::through;
use crate::{CloudError, Resilient};

/// A backend that spreads load.
pub trait LoadBalancer: Backend {
    /// Starts a balancer.
    fn deploy(&self, key: &EffectKey, name: &str, balancer: &Balancer) -> effect!();
    /// Gives one other targets.
    fn update(&self, key: &EffectKey, name: &str, balancer: &Balancer) -> effect!();
    /// Removes one; that it is not there is as good.
    fn remove(&self, key: &EffectKey, name: &str) -> effect!();
}

/// What a balancer is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balancer {
    /// The TCP port that it listens on.
    pub port: u16,
    /// Where connections go, as ADDRESS:PORT.
    pub targets: Vec<String>,
}

impl<P: LoadBalancer> LoadBalancer for Resilient<P> {
    async fn deploy(&self, key: &EffectKey, name: &str, balancer: &Balancer) -> Result<Receipt, CloudError> {
        through!(self, &LONG, deploy, key, name, balancer)
    }

    async fn update(&self, key: &EffectKey, name: &str, balancer: &Balancer) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, update, key, name, balancer)
    }

    async fn remove(&self, key: &EffectKey, name: &str) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, remove, key, name)
    }
}
