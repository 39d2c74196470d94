//! The node agent end to end: real shims, supervisors and agent processes; only the API is a small fake.
//!
//! The sandboxes are plain processes: what isolates them is tested elsewhere, and nothing here depends on it.

#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

#[path = "agent/bench.rs"]
mod bench;
#[path = "agent/failures.rs"]
mod failures;
#[path = "agent/fake_api.rs"]
mod fake_api;
#[path = "agent/life.rs"]
mod life;
#[path = "agent/restart.rs"]
mod restart;
