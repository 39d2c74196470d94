//! Machines, and tasks that run to their end.

use std::collections::BTreeMap;
use std::future::Future;

use mainstay_runtime::operation::EffectKey;
use serde::{Deserialize, Serialize};

use super::{Backend, Receipt, effect};
use crate::limits::compute::{EFFECT, LONG};
use crate::resilient::through;
use crate::{CloudError, Resilient};

/// A backend that runs things.
pub trait Compute: Backend {
    /// Starts a new instance.
    fn launch(&self, key: &EffectKey, name: &str, instance: &Instance) -> effect!();
    /// Starts one that was stopped.
    fn start(&self, key: &EffectKey, name: &str) -> effect!();
    /// Stops one, and keeps it.
    fn stop(&self, key: &EffectKey, name: &str) -> effect!();
    /// Removes one; that it is not there is as good.
    fn delete(&self, key: &EffectKey, name: &str) -> effect!();
    /// Runs a task; the receipt's resource is its result. Its state is `running` until it has come to its end, which
    /// [`Backend::find`] tells.
    fn run_task(&self, key: &EffectKey, name: &str, task: &Task) -> effect!();
    /// Ends one that runs; that it does not is as good.
    fn stop_task(&self, key: &EffectKey, name: &str) -> effect!();
}

/// What an instance is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// What it runs.
    pub image: String,
    /// CPUs, in thousandths.
    pub cpu_millis: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Its environment.
    pub env: BTreeMap<String, String>,
}

/// What a task is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What it runs in.
    pub image: String,
    /// What it runs.
    pub command: Vec<String>,
}

impl<P: Compute> Compute for Resilient<P> {
    async fn launch(&self, key: &EffectKey, name: &str, instance: &Instance) -> Result<Receipt, CloudError> {
        through!(self, &LONG, launch, key, name, instance)
    }

    async fn start(&self, key: &EffectKey, name: &str) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, start, key, name)
    }

    async fn stop(&self, key: &EffectKey, name: &str) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, stop, key, name)
    }

    async fn delete(&self, key: &EffectKey, name: &str) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, delete, key, name)
    }

    async fn run_task(&self, key: &EffectKey, name: &str, task: &Task) -> Result<Receipt, CloudError> {
        through!(self, &LONG, run_task, key, name, task)
    }

    async fn stop_task(&self, key: &EffectKey, name: &str) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, stop_task, key, name)
    }
}
