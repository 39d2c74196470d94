//! Several replicas over one PostgreSQL, which is killed, cut off, and replaced, and grows large; and behind a pooler.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured"
)]

mod epochs;
mod faults;
mod order;
mod partitions;
mod pooler;
mod rows;
mod support;
mod upgrade;
