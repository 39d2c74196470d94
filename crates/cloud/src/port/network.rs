//! Networks, and rules of what passes in them.

use std::future::Future;

use mainstay_runtime::operation::EffectKey;
use serde::{Deserialize, Serialize};

use super::{Backend, Receipt, effect};
use crate::limits::network::EFFECT;
use crate::resilient::through;
use crate::{CloudError, Resilient};

/// A backend that connects things.
pub trait Network: Backend {
    /// Makes a network.
    fn create(&self, key: &EffectKey, name: &str, network: &Net) -> effect!();
    /// Removes one; that it is not there is as good.
    fn delete(&self, key: &EffectKey, name: &str) -> effect!();
    /// Lets something pass.
    fn add_rule(&self, key: &EffectKey, name: &str, rule: &Rule) -> effect!();
    /// Lets it pass no more; that it does not is as good.
    fn remove_rule(&self, key: &EffectKey, name: &str) -> effect!();
}

/// What a network is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    /// Its addresses, as ADDRESS/BITS.
    pub cidr: String,
}

/// What may pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// In which network.
    pub network: String,
    /// From where, as ADDRESS/BITS.
    pub from: String,
    /// To which TCP port.
    pub port: u16,
}

impl<P: Network> Network for Resilient<P> {
    async fn create(&self, key: &EffectKey, name: &str, network: &Net) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, create, key, name, network)
    }

    async fn delete(&self, key: &EffectKey, name: &str) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, delete, key, name)
    }

    async fn add_rule(&self, key: &EffectKey, name: &str, rule: &Rule) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, add_rule, key, name, rule)
    }

    async fn remove_rule(&self, key: &EffectKey, name: &str) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, remove_rule, key, name)
    }
}
