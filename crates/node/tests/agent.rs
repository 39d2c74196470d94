//! The node agent end to end: real shims, supervisors and agent processes; only the API is a small fake.
//!
//! Most sandboxes here are plain processes, since what an agent decides does not depend on what isolates them; those of
//! `isolated` are as by default, and need root.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests; a failed unwrap is a failed test")]

#[path = "agent/bench.rs"]
mod bench;
#[path = "agent/exec.rs"]
mod exec;
#[path = "agent/failures.rs"]
mod failures;
#[path = "agent/fake_api.rs"]
mod fake_api;
#[path = "agent/faults.rs"]
mod faults;
#[path = "agent/isolated.rs"]
mod isolated;
#[path = "agent/life.rs"]
mod life;
#[path = "agent/restart.rs"]
mod restart;
