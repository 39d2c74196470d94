//! Chance: jitter, and whatever else is drawn because nothing decides it. Never for secrets.
//!
//! It comes from the operating system, unless a thread says otherwise: a simulation seeds its thread, and everything that
//! runs there draws the same again.

use std::cell::Cell;

thread_local! {
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Evenly from [0, 1).
pub fn unit() -> f64 {
    match SEEDED.get() {
        None => rand::random(),
        Some(state) => {
            let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            SEEDED.set(Some(state));
            // SplitMix64, of which a double holds the upper 53 bits.
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bits = (mixed ^ (mixed >> 31)) >> 11;
            #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
            let unit = bits as f64 / (1_u64 << 53) as f64;
            unit
        }
    }
}

/// From now on this thread draws what this seed gives, until what is returned is dropped.
#[must_use = "it lasts as long as this"]
pub fn seed(seed: u64) -> Seeded {
    Seeded { before: SEEDED.replace(Some(seed)), thread: std::marker::PhantomData }
}

/// See [`seed`].
#[derive(Debug)]
pub struct Seeded {
    before: Option<u64>,
    /// It is the thread's.
    thread: std::marker::PhantomData<*const ()>,
}

impl Drop for Seeded {
    fn drop(&mut self) {
        let _ = self.thread;
        SEEDED.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(count: usize) -> Vec<f64> {
        (0..count).map(|_| unit()).collect()
    }

    #[test]
    fn what_is_seeded_is_drawn_again_and_nothing_else_is() {
        let of = |number| {
            let _seeded = seed(number);
            draw(1_000)
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_ne!(draw(4), draw(4), "not seeded any more");
        let drawn = of(3);
        assert!(drawn.iter().all(|one| (0.0..1.0).contains(one)));
        let mean = drawn.iter().sum::<f64>() / 1_000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }
}
