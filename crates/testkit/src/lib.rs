//! What tests and benches share: a real server that can be killed, and measuring.

pub mod bench;
pub mod server;
