//! What retention gives up, and when.

use std::time::Duration;

use tokio::time::Instant;

use super::Chores;
use crate::object::Revision;
use crate::sqlite::{Options, directory, schema};

fn chores(bound: impl Fn(Options) -> Options) -> Chores {
    let dir = tempfile::tempdir().unwrap();
    let options = bound(Options::new(dir.path()));
    let _held = directory::hold(dir.path()).unwrap();
    let connection = schema::open(&dir.path().join("state.db"), &options).unwrap();
    Chores::new(&connection, &options, Revision(0)).unwrap()
}

/// The target after each tick: (seconds since the start, newest revision).
fn targets(chores: &mut Chores, ticks: &[(u64, u64)]) -> Vec<u64> {
    let start = Instant::now();
    let tick = |(seconds, newest): &(u64, u64)| {
        chores.tick(start + Duration::from_secs(*seconds), Revision(*newest));
        chores.target.0
    };
    ticks.iter().map(tick).collect()
}

#[test]
fn history_goes_when_it_is_old_and_not_among_the_newest() {
    let mut chores = chores(|options| options);
    let ticks = [(0, 30_000), (200, 40_000), (299, 50_000), (310, 50_001), (505, 50_002), (900, 50_003)];
    assert_eq!(targets(&mut chores, &ticks), [0, 0, 0, 30_000, 40_000, 40_000]);
    assert!(chores.pending());
}

#[test]
fn the_newest_stay_however_old_they_are() {
    let mut chores = chores(|options| Options { retain_changes: 1_000, ..options });
    assert_eq!(targets(&mut chores, &[(0, 2_000), (1_000, 2_000), (2_000, 2_000)]), [0, 1_000, 1_000]);
}

#[test]
fn too_much_history_goes_however_young_it_is() {
    let mut chores = chores(|options| Options { retain_at_most: 5_000, ..options });
    assert_eq!(targets(&mut chores, &[(0, 1), (10, 4_000), (11, 9_000), (20, 9_000)]), [0, 0, 0, 4_000]);
}
