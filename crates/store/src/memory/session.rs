//! A replica's words with the database.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::database::{Database, State};
use super::{Fate, Wire, Word};
use crate::error::StoreError;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Nothing was sent.
    Away,
    /// It may have been done, or be done yet.
    Unknown,
}

impl From<Lost> for StoreError {
    fn from(lost: Lost) -> Self {
        let silence = Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut));
        match lost {
            Lost::Away => Self::Away(silence),
            Lost::Unknown => Self::Database(silence),
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) database: Database,
    pub(super) wire: Arc<dyn Wire>,
}

impl Session {
    /// Has something done there, if it gets there.
    pub(super) async fn word<T>(
        &self,
        word: Word,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        match self.wire.fate(word) {
            Fate::Answered { there, back } => {
                pass(there).await;
                let done = self.database.with(work);
                pass(back).await;
                Ok(done)
            }
            Fate::Away(after) => {
                pass(after).await;
                Err(Lost::Away)
            }
            Fate::Lost(patience) => {
                pass(patience).await;
                Err(Lost::Unknown)
            }
            Fate::Unanswered { there, patience } => {
                pass(there).await;
                drop(self.database.with(work));
                pass(patience).await;
                Err(Lost::Unknown)
            }
            Fate::Late { patience, there } => {
                let there = u64::try_from(there.as_millis()).unwrap_or(u64::MAX / 4);
                self.database.later(there, |state| drop(work(state)));
                pass(patience).await;
                Err(Lost::Unknown)
            }
        }
    }
}

impl Session {
    /// Says something to which no answer is wanted.
    pub(super) fn say(&self, word: Word, work: impl FnOnce(&mut State) + Send + 'static) {
        if let Fate::Answered { there, .. } | Fate::Unanswered { there, .. } | Fate::Late { there, .. } =
            self.wire.fate(word)
        {
            self.database.later(u64::try_from(there.as_millis()).unwrap_or(u64::MAX / 4), work);
        }
    }
}

/// No answer is there before others had their turn; a timer has a grain, and no time is less.
async fn pass(span: Duration) {
    if span.is_zero() {
        tokio::task::yield_now().await;
    } else {
        sleep(span).await;
    }
}
