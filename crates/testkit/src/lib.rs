//! What tests share: a real server that can be killed.

pub mod server;
