//! The store through its public interface.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, and children that speak to their parent"
)]

mod basics;
mod child;
mod compaction;
mod crash;
mod disk;
mod operations;
mod power;
mod support;
