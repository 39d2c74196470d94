//! What benches share: samples, floors measured in the same run, and what the machine and its processes did meanwhile.
//!
//! A figure without its floor says little on a shared machine, so a bench measures both, and the load of others too.

mod floor;
mod machine;
mod process;
mod sample;

pub use floor::{bubblewrap, fdatasync, spawn};
pub use machine::{Busy, machine, wait_quiet};
pub use process::{Usage, usage};
pub use sample::Sample;
