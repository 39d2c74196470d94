//! How the wall clock was set within one boot.
//!
//! A stored time is what the wall clock showed then. When the clock is set by an hour, every stored time is suddenly an
//! hour older or younger than it is; a limit counted from one would be met an hour early, and something be stopped that
//! should go on. The timeline knows which stretch of the boot a stored time belongs to, and carries it over.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Timestamp, micros};

/// Settings remembered; older ones are forgotten first.
const MOST: usize = 16;
/// Stored times may be cut to whole seconds, in microseconds.
const CUT: i64 = 1_000_000;

/// See the module. An empty one changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline(Arc<Vec<Stretch>>);

/// From one setting of the clock to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    /// Its begin, in microseconds since boot.
    since: i64,
    /// What the wall clock would have shown at boot, in microseconds.
    epoch: i64,
}

impl Timeline {
    /// What the wall clock would show now at `stamp`'s moment, had it been set then as it is set `now`: so that
    /// `now - rebase(stamp, now)` is the time that has passed.
    ///
    /// A time of before this boot, or of a setting that is forgotten, stays as it is. Where the clock was set back, a
    /// stored time may belong to either side; the later is taken, so that a limit is met late rather than early.
    pub fn rebase(&self, stamp: Timestamp, now: Timestamp) -> Timestamp {
        let Some(last) = self.0.last() else { return stamp };
        let mut until = now.as_microsecond() - last.epoch;
        for stretch in self.0.iter().rev() {
            let moment = stamp.as_microsecond() - stretch.epoch;
            if (stretch.since - CUT..=until).contains(&moment) {
                let moved = stamp.as_microsecond().saturating_add(last.epoch - stretch.epoch);
                return Timestamp::from_microsecond(moved).unwrap_or(stamp);
            }
            until = stretch.since;
        }
        stamp
    }

    pub(super) fn epoch(&self) -> Option<i64> {
        self.0.last().map(|last| last.epoch)
    }

    /// The clock shows, from `boot` after boot on, a time that was `epoch` at boot.
    pub(super) fn set(&mut self, boot: Duration, epoch: i64) {
        // What the first look sees has held since the boot, as far as anybody knows.
        let since = if self.0.is_empty() { 0 } else { micros(boot) };
        let stretches = Arc::make_mut(&mut self.0);
        if stretches.len() == MOST {
            stretches.remove(0);
        }
        stretches.push(Stretch { since, epoch });
    }

    /// Reads what [`Timeline::save`] wrote in this boot.
    pub(super) fn load(file: &Path, boot_id: &str) -> io::Result<Self> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Self::parse(&text, boot_id).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str, boot_id: &str) -> Option<Self> {
        let mut lines = text.lines();
        lines.next().filter(|line| *line == boot_id)?;
        let stretch = |line: &str| {
            let (since, epoch) = line.split_once(' ')?;
            Some(Stretch { since: since.parse().ok()?, epoch: epoch.parse().ok()? })
        };
        let stretches: Option<Vec<_>> = lines.map(stretch).collect();
        stretches.map(Arc::new).map(Self)
    }

    /// Writes it: the boot's identifier, then a line for each setting (since boot, wall clock at boot; microseconds).
    pub(super) fn save(&self, file: &Path, boot_id: &str) -> io::Result<()> {
        let new = file.with_extension("new");
        let mut text = io::BufWriter::new(std::fs::File::create(&new)?);
        writeln!(text, "{boot_id}")?;
        for Stretch { since, epoch } in self.0.iter() {
            writeln!(text, "{since} {epoch}")?;
        }
        text.flush()?;
        std::fs::rename(&new, file)
    }
}
