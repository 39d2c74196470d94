//! Several replicas over a shared database in memory, behind a faulty wire: one thread, time that is driven, and everything
//! that is drawn drawn from one seed. So whatever goes wrong goes wrong again.
//!
//! Each replica has a Tokio runtime of its own, whose clock stands still but for the steps that the world takes with it. To kill
//! one is to drop its runtime; to freeze one is not to step it, and to let its clock jump when it goes on, as that of a stopped
//! process does. What runs there is the real code: workers of operations, the keeper of leases, the hub and its
//! watches. What is judged, and of what, is said in `history`. docs/simulation.md says how it is run.

mod backend;
mod clients;
mod dice;
mod history;
mod host;
mod orders;
mod terms;
mod watchers;
mod wire;
mod world;

pub use history::Broken;
pub use mainstay_store::memory::Checks;
pub use world::{Report, Without, run};
