//! Systems that Mainstay has resources made in: compute, networks, storage, DNS, load balancers.
//!
//! - [`port`]: what Mainstay asks of each, as traits. Every effect carries an [`EffectKey`](mainstay_runtime::operation::EffectKey),
//!   by which its receiver tells a repetition and a caller that is out of date; what became of it can be looked up by
//!   operation and step.
//! - [`Resilient`]: any backend behind breaker, bulkhead, deadline and retry. Nothing else is to be used.
//! - [`limits`]: their numbers, in one table, with reasons; docs/resilience.md shows it.
//! - [`handlers`]: the operations that use them.
//! - [`drill`]: the backend that tests are made with. Real ones come beside it.
//!
//! Nothing here remembers anything: what was intended and what came of it is in the operation's journal.

pub mod drill;
mod error;
pub mod handlers;
pub mod limits;
pub mod port;
mod provider;
mod resilient;

pub use error::{CloudError, Code};
pub use provider::{AllDrill, Backends, Provider};
pub use resilient::Resilient;
