//! Carries out operations: long work that is never lost and never done twice.
//!
//! What an operation is and how it is queued is said in `mainstay_store::operation`, what a handler is in
//! `mainstay_runtime::operation`. Here is what lies between: [`Workers`] claim operations in batches, each is carried out by
//! an attempt (`attempt`), whose lease a heartbeat renews (`held`), what comes of it is decided (`verdict`) and stored (`settling`).
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
//! | it is cancelled while its last attempt fails | not dead: undone first, at once (the store sees to that) |
//! | its end is more than the store takes | said without output, history and steps |
//! | its object cannot be read, or written | the row alone is dead |
//! | no such handler | dead letter `UnknownHandler` |
//! | its worker dies | again as soon as the lease is over, or the next process starts; resumed at the step in doubt |
//! | two workers died of it in a row | it is a suspect: begun only while no other suspect is, until a step of it gets done |
//! | five workers died of it in a row | undone, then a dead letter `WorkersLost` |
//! | somebody else has the attempt | nothing: whoever has it says what comes of it |
//!
//! A suspect that finds another under way is handed back before it begins, for a second or two: it holds no slot, hears of a
//! cancellation like all that wait, and when the other takes the process along, that says nothing of it. So of the deaths after
//! the second only who was there alone is suspected, whoever dies with it was never alone, and each gets its turn:
//! an attempt is over when its time is.

mod attempt;
#[cfg(test)]
mod fake;
mod held;
mod journal;
pub mod metrics;
mod noop;
mod panics;
mod policy;
mod settling;
pub mod turns;
mod verdict;
mod workers;

pub use metrics::Metrics;
pub use noop::Noop;
pub use policy::Policy;
pub use workers::{Surroundings, Workers};
