//! Time, as something tests can drive.
//!
//! Spans and timers use `tokio::time` (pausable); due times that a user may have set are awaited by [`Clock::reach`], since
//! timers stand still while the machine sleeps. The wall clock is read only here, and decides only what a user
//! wrote or reads in wall-clock terms. How long ago something was, within one boot, is counted on CLOCK_BOOTTIME, which
//! neither jumps nor stops during suspend: see [`Timeline`].

mod timeline;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;

pub use timeline::Timeline;

/// A point of wall-clock time.
pub type Timestamp = jiff::Timestamp;

/// The wall clock was set when it moved this much against CLOCK_BOOTTIME, in microseconds.
const SET: i64 = 500_000;
/// Two clocks read further apart than this say nothing of each other.
const APART: Duration = Duration::from_millis(50);
/// Attempts at reading them together.
const READS: usize = 8;
/// Tokio's timers count on CLOCK_MONOTONIC, which stands still while the machine sleeps. Whoever waits for a moment of
/// CLOCK_BOOTTIME therefore looks this often, and is no later than that after a sleep.
const LOOK: Duration = Duration::from_millis(500);

/// Reads the wall clock, and notices when somebody sets it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    /// What the wall clock showed at boot, as far as is known now, in microseconds.
    epoch: AtomicI64,
    timeline: Mutex<Timeline>,
    /// Where the timeline is kept over restarts.
    file: Option<PathBuf>,
}

#[derive(Debug)]
enum Source {
    System,
    Virtual { start: Timestamp, since: tokio::time::Instant, set: AtomicI64, slept: AtomicU64 },
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(Source::System, Timeline::default(), None)
    }

    /// The machine's clock; how it was set within this boot is kept in `file`, so that a restart knows.
    ///
    /// # Errors
    /// When the file cannot be read or the boot is not known. A file of another boot, or one that makes no sense, is
    /// begun anew.
    pub fn kept_in(file: &Path) -> io::Result<Self> {
        let timeline = Timeline::load(file, &boot_id()?)?;
        Ok(Self::new(Source::System, timeline, Some(file.to_owned())))
    }

    /// A clock that starts at `start` and moves with Tokio's (paused) time. Needs a Tokio runtime.
    pub fn virtual_from(start: Timestamp) -> Self {
        let since = tokio::time::Instant::now();
        let source = Source::Virtual { start, since, set: AtomicI64::new(0), slept: AtomicU64::new(0) };
        Self::new(source, Timeline::default(), None)
    }

    fn new(source: Source, timeline: Timeline, file: Option<PathBuf>) -> Self {
        // No epoch can be this, so that the first look is told apart from what the file says.
        let epoch = AtomicI64::new(timeline.epoch().unwrap_or(i64::MAX));
        let clock = Self(Arc::new(Inner { source, epoch, timeline: Mutex::new(timeline), file }));
        clock.now();
        clock
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        let (wall, boot) = self.0.source.read();
        if let Some(boot) = boot {
            let epoch = wall.as_microsecond() - micros(boot);
            if epoch.abs_diff(self.0.epoch.load(Ordering::Relaxed)) > SET.unsigned_abs() {
                self.0.was_set(boot, epoch);
            }
        }
        wall
    }

    /// How the wall clock was set within this boot, up to now.
    pub fn timeline(&self) -> Timeline {
        self.now();
        self.0.timeline.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Time since boot, including suspend.
    pub fn since_boot(&self) -> Duration {
        self.0.source.boot()
    }

    /// Waits until so much time has passed since boot, also when the machine sleeps meanwhile.
    ///
    /// # Cancel safety
    /// Nothing is lost: it only waits.
    pub async fn reach(&self, since_boot: Duration) {
        loop {
            let left = since_boot.saturating_sub(self.since_boot());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    /// As if the machine had slept: a virtual clock goes forward, timers do not; the machine's clock is left alone.
    pub fn suspend(&self, span: Duration) {
        if let Source::Virtual { slept, .. } = &self.0.source {
            slept.fetch_add(u64::try_from(span.as_micros()).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Sets a virtual clock forward, or back, without any time passing; the machine's clock is left alone.
    pub fn set_forward(&self, by: SignedDuration) {
        if let Source::Virtual { set, .. } = &self.0.source {
            set.fetch_add(i64::try_from(by.as_micros()).unwrap_or(0), Ordering::Relaxed);
        }
    }
}

impl Inner {
    /// The slow and rare way: somebody set the clock, or this is the first look at it.
    fn was_set(&self, boot: Duration, epoch: i64) {
        let mut timeline = self.timeline.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.epoch.swap(epoch, Ordering::Relaxed);
        if epoch.abs_diff(before) <= SET.unsigned_abs() {
            return;
        }
        timeline.set(boot, epoch);
        if let Some(file) = &self.file
            && let Err(error) = boot_id().and_then(|boot_id| timeline.save(file, &boot_id))
        {
            tracing::warn!(file = %file.display(), %error, "remember how the clock was set");
        }
        drop(timeline);
        if before != i64::MAX {
            let by_ms = epoch.saturating_sub(before) / 1_000;
            tracing::warn!(by_ms, "the wall clock was set; limits of time are counted on as if it was not");
        }
    }
}

impl Source {
    /// The wall clock and the time since boot, the latter if both could be read at one moment.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn read(&self) -> (Timestamp, Option<Duration>) {
        match self {
            Self::System => {
                for _ in 0..READS {
                    let before = boottime();
                    let wall = Timestamp::now();
                    if boottime().saturating_sub(before) < APART {
                        return (wall, Some(before));
                    }
                }
                (Timestamp::now(), None)
            }
            Self::Virtual { start, set, .. } => {
                let passed = self.boot();
                (*start + passed + SignedDuration::from_micros(set.load(Ordering::Relaxed)), Some(passed))
            }
        }
    }

    fn boot(&self) -> Duration {
        match self {
            Self::System => boottime(),
            Self::Virtual { since, slept, .. } => {
                since.elapsed() + Duration::from_micros(slept.load(Ordering::Relaxed))
            }
        }
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// Time since boot, including suspend (CLOCK_BOOTTIME).
pub fn boottime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The kernel's identifier of this boot. A pid, a lock or a boot-relative time means nothing in another boot.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests;
