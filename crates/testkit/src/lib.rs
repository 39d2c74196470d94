//! What tests and benches share: a real server that can be killed, the crash harness, drill-backend, PostgreSQL and
//! Redis, a network that is sick on demand, and measuring.

pub mod bench;
pub mod command;
pub mod crash;
mod daemon;
pub mod drill_backend;
pub mod postgres;
pub mod proxy;
pub mod redis;
pub mod server;
