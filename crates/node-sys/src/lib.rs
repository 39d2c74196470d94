//! The system calls that no safe crate offers, behind functions that are safe to call.
//!
//! This is the only crate with `unsafe`. It decides nothing: which namespaces, mounts and filters a sandbox gets is
//! written in `mainstay-node`. Everything here is for a *single-threaded* process (a shim, or the init process of a
//! sandbox); what would be unsound with more threads refuses to run there.

pub mod process;
