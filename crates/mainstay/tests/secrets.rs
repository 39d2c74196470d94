//! Where secrets are and where they are not, and what each identity may do, on a real server.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "secrets/canary.rs"]
mod canary;
#[path = "secrets/identities.rs"]
mod identities;
#[path = "secrets/members.rs"]
mod members;
#[path = "secrets/revoked.rs"]
mod revoked;
#[path = "secrets/team.rs"]
mod team;
#[path = "bad_input/wire.rs"]
mod wire;

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
