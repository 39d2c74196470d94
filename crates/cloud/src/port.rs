//! What Mainstay asks of backends.
//!
//! A removal whose key's step is `undo/X` takes back what step X of the operation made, and nothing else that has the
//! name; and X is not done any more when it arrives late.

mod compute;
mod dns;
mod load_balancer;
mod network;
mod storage;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

pub use compute::{Compute, Instance, Task};
pub use dns::{Dns, Record};
pub use load_balancer::{Balancer, LoadBalancer};
pub use network::{Net, Network, Rule};
pub use storage::{Snapshot, Storage, Volume};

use crate::CloudError;
use crate::limits;

/// What every backend can be asked. Looking changes nothing, and sees all that was answered before.
pub trait Backend: Clone + Debug + Send + Sync + 'static {
    /// Its name, and the numbers of its gates.
    const LIMITS: &'static limits::Backend;

    /// The host that is called.
    fn host(&self) -> &Arc<str>;

    /// What became of a step: how an effect in doubt is observed before it is repeated. `None`: it has not arrived, but
    /// still may, as long as its undoing has not.
    fn find(&self, operation: &str, step: &str) -> impl Future<Output = Result<Option<Receipt>, CloudError>> + Send;

    /// What is there under that name.
    fn look(&self, kind: &str, name: &str) -> impl Future<Output = Result<Option<Resource>, CloudError>> + Send;

    /// All that is there.
    fn list(&self) -> impl Future<Output = Result<Vec<Resource>, CloudError>> + Send;

    /// Whether it is well.
    fn ping(&self) -> impl Future<Output = Result<(), CloudError>> + Send;
}

/// That an effect was carried out, now or when it was first asked for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Receipt {
    /// Whose effect it is.
    pub operation: String,
    /// Whose effect it is.
    pub step: String,
    /// Of the attempt that carried it out; not that of one which asked again.
    pub token: u64,
    /// What it was done to.
    pub name: String,
    /// Whether anything is different for it: removing what is not there changes nothing.
    pub changed: bool,
    /// What was there after it.
    pub resource: Option<Resource>,
}

/// Something that is there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Resource {
    /// `instance`, `volume`, ...
    pub kind: String,
    /// As its maker called it.
    pub name: String,
    /// As the backend calls it; never given twice.
    pub id: u64,
    /// As it was last asked for.
    pub spec: Value,
    /// What was last done to it.
    pub state: String,
    /// The operation that made it: whoever it belongs to.
    pub operation: String,
}

/// The future of an effect.
macro_rules! effect {
    () => { impl Future<Output = Result<$crate::port::Receipt, $crate::CloudError>> + Send };
}
use effect;
