//! The API server against a real store, in process and over TLS. One file per theme.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod bad_input;
mod crud;
mod deletion;
mod exec;
mod harness;
mod keys;
mod kube_client;
mod leftovers;
mod limits;
mod lists;
mod logs;
mod messages;
mod metrics;
mod new_kind;
mod nodes;
mod operation_ends;
mod operations;
mod panics;
mod patch;
mod peers;
mod quota;
mod stalls;
mod tls;
mod watch;
