//! Operations are carried out by a real `mainstay serve` against a real drill-backend, while one of them is sick or dies:
//! each effect is had once at most, nothing is left that nobody answers for, and what is there in the end is what is there
//! when nothing happens.
//!
//! Ordinary runs draw a few cases of each drill; `MAINSTAY_DRILLS=all` runs every case (`make drills`, docs/drills.md).
//! `MAINSTAY_SEED` repeats a draw. `MAINSTAY_DRILLS_DATABASE` says on which database, `sqlite` or `postgres`.

#[path = "drills/busy.rs"]
mod busy;
#[path = "drills/cancelled.rs"]
mod cancelled;
#[path = "drills/cases.rs"]
mod cases;
#[path = "drills/database.rs"]
mod database;
#[path = "drills/dead.rs"]
mod dead;
#[path = "drills/deaths.rs"]
mod deaths;
#[path = "drills/duplicates.rs"]
mod duplicates;
#[path = "drills/fair.rs"]
mod fair;
#[path = "drills/full.rs"]
mod full;
#[path = "drills/kind.rs"]
mod kind;
#[path = "drills/poison.rs"]
mod poison;
#[path = "drills/recovery.rs"]
mod recovery;
#[path = "drills/sick.rs"]
mod sick;
#[path = "drills/stage.rs"]
mod stage;

/// The program under test: this build's, or the one that `MAINSTAY_DRILLS_EXE` names (one whose guards can be taken away).
fn exe() -> std::path::PathBuf {
    std::env::var_os("MAINSTAY_DRILLS_EXE").map_or_else(|| env!("CARGO_BIN_EXE_mainstay").into(), Into::into)
}
