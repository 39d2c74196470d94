//! The wire between a replica and the database: what becomes of each word is drawn.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainstay_store::memory::{Fate, Wire, Word};

use crate::dice::Dice;

/// How the wire is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Every word is answered, within some milliseconds.
    Fair,
    /// So many of a hundred words are lost, unanswered, or late.
    Lossy(u64),
    /// Nothing comes through, and it shows only in time.
    Cut,
    /// Words get there, and no answer comes back.
    Deaf,
    /// The other side says at once that there is nobody.
    Refused,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Faulty(Mutex<State>);

#[derive(Debug)]
struct State {
    weather: Weather,
    /// One for each sort of words: which of two that are sent at one moment is first, changes neither's fate.
    dice: [Dice; 7],
}

/// After so long without an answer nobody waits any more.
const PATIENCE: Duration = Duration::from_secs(5);

impl Faulty {
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let dice = std::array::from_fn(|word| Dice::new(seed, purpose + word as u64));
        Self(Mutex::new(State { weather: Weather::Fair, dice }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn weather(&self) -> Weather {
        self.lock().weather
    }

    pub(crate) fn turn(&self, weather: Weather) {
        self.lock().weather = weather;
    }
}

impl Wire for Faulty {
    fn fate(&self, word: Word) -> Fate {
        let State { weather, dice } = &mut *self.lock();
        let dice = &mut dice[match word {
            Word::Batch => 0,
            Word::Settle => 1,
            Word::Read => 2,
            Word::Renew => 3,
            Word::Lease => 4,
            Word::Talk => 5,
            Word::Hint => 6,
        }];
        let (there, back) = (dice.millis(1..6), dice.millis(1..6));
        match *weather {
            Weather::Refused => Fate::Away(Duration::from_millis(1)),
            Weather::Cut if dice.percent(50) => Fate::Away(PATIENCE),
            Weather::Cut => Fate::Lost(PATIENCE),
            Weather::Deaf if word == Word::Hint => Fate::Lost(PATIENCE),
            Weather::Deaf => Fate::Unanswered { there, patience: PATIENCE },
            Weather::Lossy(share) if dice.percent(share) => match dice.within(0..4) {
                0 => Fate::Lost(dice.millis(10..500)),
                1 => Fate::Unanswered { there, patience: dice.millis(10..500) },
                2 => Fate::Late { patience: dice.millis(10..200), there: dice.millis(200..8_000) },
                _ => Fate::Away(there),
            },
            Weather::Lossy(_) | Weather::Fair => Fate::Answered { there, back },
        }
    }
}
