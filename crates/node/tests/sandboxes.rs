//! Sandboxes end to end: real shims, real supervisors, real agent processes; only the API is a small fake.
//!
//! They need root and Linux, and fail without, rather than passing for nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

#[path = "sandboxes/agents.rs"]
mod agents;
#[path = "sandboxes/bench.rs"]
mod bench;
#[path = "sandboxes/escape.rs"]
mod escape;
#[path = "sandboxes/fake_api.rs"]
mod fake_api;
#[path = "sandboxes/isolation.rs"]
mod isolation;
#[path = "sandboxes/life.rs"]
mod life;
#[path = "sandboxes/limits.rs"]
mod limits;
#[path = "sandboxes/ordinary.rs"]
mod ordinary;
#[path = "sandboxes/power.rs"]
mod power;
