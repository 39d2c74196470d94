//! What tests and benches share: a real server that can be killed, the crash harness, and measuring.

pub mod bench;
pub mod crash;
pub mod server;
