//! Three servers over one PostgreSQL, each behind a network of its own that is sick on demand: what clients, watchers and the
//! database itself have recorded is judged after each drill (`fleet/history.rs`).
//!
//! Ordinary runs draw a few cases of each drill; `MAINSTAY_DRILLS=all` runs every case (`make drills`, docs/drills.md).
//! `MAINSTAY_SEED` repeats a draw.

#[path = "fleet/away.rs"]
mod away;
#[path = "fleet/calls.rs"]
mod calls;
#[path = "drills/cases.rs"]
mod cases;
#[path = "fleet/clocks.rs"]
mod clocks;
#[path = "fleet/compacted.rs"]
mod compacted;
#[path = "fleet/flood.rs"]
mod flood;
#[path = "fleet/follower.rs"]
mod follower;
#[path = "fleet/frozen.rs"]
mod frozen;
#[path = "fleet/history.rs"]
mod history;
#[path = "fleet/ledger.rs"]
mod ledger;
#[path = "fleet/parted.rs"]
mod parted;
#[path = "fleet/races.rs"]
mod races;
#[path = "fleet/stage.rs"]
mod stage;
#[path = "fleet/stalled.rs"]
mod stalled;
#[path = "fleet/streams.rs"]
mod streams;
#[path = "fleet/turns.rs"]
mod turns;

/// The program under test: this build's, or the one that `MAINSTAY_DRILLS_EXE` names (one whose guards can be taken away).
fn exe() -> std::path::PathBuf {
    std::env::var_os("MAINSTAY_DRILLS_EXE").map_or_else(|| env!("CARGO_BIN_EXE_mainstay").into(), Into::into)
}
