//! What tests and benches share: a real server that can be killed, the crash harness, drill-backend, and measuring.

pub mod bench;
pub mod command;
pub mod crash;
mod daemon;
pub mod drill_backend;
pub mod postgres;
pub mod server;
