//! The rules that sessions keep, on a real server with real sandboxes: `docs/rules.md` names which test shows which.
//!
//! Sandboxes have full isolation, so run it as root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "rules/deletion.rs"]
mod deletion;
#[path = "rules/endings.rs"]
mod endings;
#[path = "rules/limits.rs"]
mod limits;
#[path = "rules/messages.rs"]
mod messages;
#[path = "rules/once.rs"]
mod once;
#[path = "rules/parts.rs"]
mod parts;
#[path = "rules/phases.rs"]
mod phases;
#[path = "rules/resume.rs"]
mod resume;
#[path = "rules/tokens.rs"]
mod tokens;
#[path = "rules/world.rs"]
mod world;

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
