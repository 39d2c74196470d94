//! The control plane, its shims and its supervisors are killed while sessions live: every session comes to its right
//! end, no agent runs twice, every message that was accepted is there once, and nothing is left over.
//!
//! On real processes with full isolation, so run it as root. `MAINSTAY_SEED` repeats a run's draws, and
//! `MAINSTAY_CRASH_ROUNDS` makes more of them.

#[path = "crash/adopted.rs"]
mod adopted;
#[path = "crash/duties.rs"]
mod duties;
#[path = "crash/life.rs"]
mod life;
#[path = "crash/many.rs"]
mod many;
#[path = "crash/parts.rs"]
mod parts;
#[path = "crash/restored.rs"]
mod restored;
#[path = "crash/shims.rs"]
mod shims;
#[path = "crash/starts.rs"]
mod starts;
#[path = "crash/steps.rs"]
mod steps;
#[path = "crash/talk.rs"]
mod talk;
#[path = "crash/world.rs"]
mod world;

/// The program under test.
const EXE: &str = env!("CARGO_BIN_EXE_mainstay");
