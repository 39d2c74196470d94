//! How many calls failed lately: a ring of slots, each of a tenth of the window.

use std::time::Duration;

use tokio::time::Instant;

use super::Settings;

const SLOTS: usize = 10;

/// Calls of the last `length`, give or take a slot.
#[derive(Debug)]
pub(super) struct Window {
    began: Instant,
    slot: Duration,
    slots: [Slot; SLOTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Which stretch of time it counts, from the window's beginning.
    stretch: u128,
    calls: u32,
    failed: u32,
    slow: u32,
}

impl Window {
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        let slot = (length / u32::try_from(SLOTS).unwrap_or(u32::MAX)).max(Duration::from_nanos(1));
        Self { began: now, slot, slots: [Slot::default(); SLOTS] }
    }

    fn stretch(&self, now: Instant) -> u128 {
        now.saturating_duration_since(self.began).as_nanos() / self.slot.as_nanos()
    }

    pub(super) fn note(&mut self, now: Instant, failed: bool, slow: bool) {
        let stretch = self.stretch(now);
        let at = usize::try_from(stretch % SLOTS as u128).unwrap_or_default();
        let Some(slot) = self.slots.get_mut(at) else { return };
        if slot.stretch != stretch {
            *slot = Slot { stretch, ..Slot::default() };
        }
        slot.calls = slot.calls.saturating_add(1);
        slot.failed = slot.failed.saturating_add(u32::from(failed));
        slot.slow = slot.slow.saturating_add(u32::from(slow));
    }

    fn counted(&self, now: Instant) -> impl Iterator<Item = &Slot> {
        let newest = self.stretch(now);
        self.slots.iter().filter(move |slot| slot.stretch + SLOTS as u128 > newest)
    }

    /// Whether no call failed or was slow.
    pub(super) fn is_clean(&self, now: Instant) -> bool {
        self.counted(now).all(|slot| slot.failed == 0 && slot.slow == 0)
    }

    /// Whether so many calls failed or were slow that the breaker opens.
    pub(super) fn is_sick(&self, settings: &Settings, now: Instant) -> bool {
        let (mut calls, mut failed, mut slow) = (0_u64, 0_u64, 0_u64);
        for slot in self.counted(now) {
            calls += u64::from(slot.calls);
            failed += u64::from(slot.failed);
            slow += u64::from(slot.slow);
        }
        calls >= u64::from(settings.at_least.max(1))
            && (failed * 100 >= u64::from(settings.failed_percent) * calls
                || slow * 100 >= u64::from(settings.slow_percent) * calls)
    }
}
