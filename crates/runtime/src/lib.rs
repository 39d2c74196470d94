//! What every other crate stands on: how failures are classed, how time is read, how tasks are owned.
//!
//! Nothing here knows of Kubernetes objects, SQL or sandboxes. Start with [`failure`]: its five classes decide
//! everything that is retried, and everything that is not.

pub mod backoff;
pub mod chance;
pub mod client;
pub mod clock;
pub mod duty;
pub mod failure;
pub mod fault;
pub mod file;
pub mod guard;
pub mod http_class;
pub mod lease;
pub mod operation;
pub mod resilience;
pub mod sync;
pub mod tasks;
pub mod trace;

pub use backoff::KeyBackoff;
pub use client::{CallError, bounded, bounded_client};
pub use clock::{Clock, Timestamp};
pub use failure::{Class, Classify, Doing, Failure, Reason};
pub use tasks::Tasks;
