//! The system calls that no safe crate offers, and the filters of the kernel, behind functions that are safe to call.
//!
//! This is the only crate with `unsafe`. Which namespaces and mounts a sandbox gets is written in `mainstay-node`; only
//! the deny list of system calls is here, beside the code that installs it. Everything that makes or changes a process
//! is for a *single-threaded* one (a shim, or the init process of a sandbox); what would be unsound with more threads
//! refuses to run there.

pub mod loop_device;
pub mod mounts;
pub mod network;
pub mod paths;
pub mod privileges;
pub mod process;
pub mod seccomp;
