//! Several replicas over one PostgreSQL, which is killed, cut off, and replaced.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod faults;
mod support;
