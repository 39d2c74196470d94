//! Carries out operations: long work that is never lost and never done twice.
//!
//! What an operation is and how it is queued is said in `mainstay_store::operation`, what a handler is in
//! `mainstay_runtime::operation`. Here is what lies between: [`Workers`] claim operations in batches, each is carried out by
//! an attempt (`attempt`), whose lease a heartbeat renews (`held`), and what came of it becomes a settlement (`verdict`).
//!
//! | what happens | what comes of it |
//! |---|---|
//! | all steps are done | Succeeded, with the last step's output |
//! | a step fails | again, after U[0, min(5 min, 2 s * 2^n)] |
//! | it has failed `maxAttempts` times | dead letter `AttemptsExhausted`; its steps stay as they are, a replay resumes |
//! | a step, or the payload, can never succeed (Terminal) | undone in reverse, then a dead letter with that reason |
//! | it is cancelled | undone in reverse, then Cancelled |
//! | a step says "not yet" | looked at again then; nothing is counted |
//! | the handler panics | counted as a failure of that attempt |
//! | no such handler | dead letter `UnknownHandler` |
//! | its worker dies | again as soon as the lease is over, or the next process starts; resumed at the step in doubt |
//! | five workers died of it in a row | undone, then a dead letter `WorkersLost`; from the second on it runs alone |
//! | somebody else has the attempt | nothing: whoever has it says what comes of it |

mod attempt;
mod held;
mod journal;
pub mod metrics;
mod noop;
mod policy;
mod verdict;
mod workers;

pub use metrics::Metrics;
pub use noop::Noop;
pub use policy::Policy;
pub use workers::{Surroundings, Workers};
