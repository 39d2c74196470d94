//! The operations that have things made in backends.
//!
//! | handler | steps | taken back |
//! |---|---|---|
//! | [`provision`] | network, volume, instance, record, load balancer | each by its removal, in reverse |
//! | [`deprovision`] | the same, removed in reverse | what is removed stays removed |
//! | [`run_task`] | start, then wait until it has run | the task is stopped |
//!
//! Each step is one [`effect`]: its receiver tells a repetition by the key, and what is in doubt is looked up before it
//! is asked for again. A call that was not sent is no failure: the operation waits. A step that is taken back is so also when there is no trace of it: then its receiver knows that it
//! must not be done any more.

pub mod deprovision;
mod effect;
pub mod provision;
pub mod run_task;
mod unsent;

use std::sync::Arc;

use mainstay_runtime::operation::Handler;

use crate::{Backends, Provider};

/// All handlers over these backends.
pub fn all<V: Provider>(backends: Backends<V>) -> [Arc<dyn Handler>; 3] {
    let backends = Arc::new(backends);
    [
        Arc::new(provision::Provision::new(Arc::clone(&backends))),
        Arc::new(deprovision::Deprovision::new(Arc::clone(&backends))),
        Arc::new(run_task::RunTask::new(backends)),
    ]
}
