//! Time, as something tests can drive.
//!
//! Spans and timers use `tokio::time` (pausable). The wall clock is read only here, and decides only what a user
//! wrote or reads in wall-clock terms. Due times within one boot are counted on CLOCK_BOOTTIME, which neither
//! jumps nor stops during suspend.

use std::sync::Arc;
use std::time::Duration;

/// A point of wall-clock time.
pub type Timestamp = jiff::Timestamp;

/// Reads the wall clock; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Virtual(Arc<(Timestamp, tokio::time::Instant)>),
}

impl Clock {
    /// The machine's clock.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that starts at `start` and moves with Tokio's (paused) time. Needs a Tokio runtime.
    pub fn virtual_from(start: Timestamp) -> Self {
        Self(Source::Virtual(Arc::new((start, tokio::time::Instant::now()))))
    }

    /// The present.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Virtual(base) => base.0 + base.1.elapsed(),
        }
    }
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
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_virtual_clock_moves_with_paused_time() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = Clock::virtual_from(start);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now(), start + Duration::from_secs(90));
    }
}
