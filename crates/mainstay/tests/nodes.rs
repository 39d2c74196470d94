//! A server and nodes as processes of their own: they join, run sessions, are killed, frozen and come back; nothing runs
//! twice, and what is said to be lost is ended.
//!
//! On real processes with full isolation, so run it as root.

#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

#[path = "nodes/authority.rs"]
mod authority;
#[path = "nodes/away.rs"]
mod away;
#[path = "nodes/cloud.rs"]
mod cloud;
#[path = "nodes/copies.rs"]
mod copies;
#[path = "nodes/exec.rs"]
mod exec;
#[path = "nodes/joins.rs"]
mod joins;
#[path = "nodes/lost.rs"]
mod lost;
#[path = "nodes/replicas.rs"]
mod replicas;
#[path = "nodes/roles.rs"]
mod roles;
#[path = "nodes/stage.rs"]
mod stage;

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
