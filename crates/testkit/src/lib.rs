//! What tests and benches share: a real server that can be killed, the crash harness, drill-backend, and measuring.

pub mod bench;
pub mod command;
pub mod crash;
pub mod drill_backend;
pub mod server;
