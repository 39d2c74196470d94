//! Volumes and their snapshots.

use std::future::Future;

use mainstay_runtime::operation::EffectKey;
use serde::{Deserialize, Serialize};

use super::{Backend, Receipt, effect};
use crate::limits::storage::{EFFECT, LONG};
use crate::resilient::through;
use crate::{CloudError, Resilient};

/// A backend that keeps things.
pub trait Storage: Backend {
    /// Makes a volume.
    fn create(&self, key: &EffectKey, name: &str, volume: &Volume) -> effect!();
    /// Changes its size.
    fn resize(&self, key: &EffectKey, name: &str, volume: &Volume) -> effect!();
    /// Removes one, and what is on it; that it is not there is as good.
    fn delete(&self, key: &EffectKey, name: &str) -> effect!();
    /// Keeps what is on a volume now.
    fn snapshot(&self, key: &EffectKey, name: &str, snapshot: &Snapshot) -> effect!();
    /// Removes a snapshot; that it is not there is as good.
    fn delete_snapshot(&self, key: &EffectKey, name: &str) -> effect!();
}

/// What a volume is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its size.
    pub size_bytes: u64,
}

/// What a snapshot is to be of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The volume's name.
    pub volume: String,
}

impl<P: Storage> Storage for Resilient<P> {
    async fn create(&self, key: &EffectKey, name: &str, volume: &Volume) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, create, key, name, volume)
    }

    async fn resize(&self, key: &EffectKey, name: &str, volume: &Volume) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, resize, key, name, volume)
    }

    async fn delete(&self, key: &EffectKey, name: &str) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, delete, key, name)
    }

    async fn snapshot(&self, key: &EffectKey, name: &str, snapshot: &Snapshot) -> Result<Receipt, CloudError> {
        through!(self, &LONG, snapshot, key, name, snapshot)
    }

    async fn delete_snapshot(&self, key: &EffectKey, name: &str) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, delete_snapshot, key, name)
    }
}
