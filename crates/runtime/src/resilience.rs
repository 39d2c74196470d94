//! What stands between a caller of ours and a system that may be sick.
//!
//! From the outside in: [`retry`], [`breaker`], [`bulkhead`], [`deadline`]. An open breaker refuses before anybody
//! waits for a place, and again who has waited; a place is held for no longer than a deadline, and nobody waits for longer
//! than the caller does. Each is a tower layer over a small machine of its own, which can be used, and is tested, without
//! tower. Time is Tokio's, so that tests can drive it.
//!
//! A refusal of ours is a [`Denied`], which the caller's error type takes in ([`CallFailure`]): nothing is boxed, and
//! nothing is told apart by its words.

pub mod breaker;
pub mod bulkhead;
pub mod deadline;
pub mod gates;
pub mod layer;
pub mod probe;
pub mod retry;
pub mod tally;

use std::time::Duration;

use crate::failure::{Class, Classify};

/// A call that was not made, or given up, by what is in front of its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The breaker is open: the backend failed too often.
    #[error("the backend failed too often; it is tried again in {retry_in:?}")]
    Open {
        /// Until the next probe may be made; zero while one is on its way.
        retry_in: Duration,
    },
    /// All places are taken, and nobody left in time.
    #[error("all {places} places for calls to the backend are taken")]
    Full {
        /// How many calls may be on their way.
        places: usize,
    },
    /// More waits than can be served.
    #[error("more calls wait than can be served")]
    Overloaded,
    /// There was no answer in time.
    #[error("no answer within {0:?}")]
    TooLate(Duration),
    /// There was no answer for as long as its caller had time, which was too short to tell anything of the backend.
    #[error("no answer within the {0:?} that were left")]
    GivenUp(Duration),
}

impl Denied {
    /// In how long to try again what was not sent; `None` for what was, and may have been carried out.
    pub const fn not_sent(&self) -> Option<Duration> {
        match *self {
            Self::Open { retry_in } => Some(retry_in),
            Self::Full { .. } | Self::Overloaded => Some(Duration::ZERO),
            Self::TooLate(_) | Self::GivenUp(_) => None,
        }
    }
}

impl Classify for Denied {
    fn class(&self) -> Class {
        match *self {
            Self::Open { retry_in } => Class::Transient { retry_after: Some(retry_in) },
            Self::Full { .. } | Self::Overloaded => Class::TRANSIENT,
            // It was sent, so it may have been carried out.
            Self::TooLate(_) | Self::GivenUp(_) => Class::Indeterminate,
        }
    }
}

/// An error of calls that pass through these layers.
pub trait CallFailure: Classify + From<Denied> {
    /// The refusal that this is, if it is one.
    fn denied(&self) -> Option<&Denied>;

    /// Whether it tells that the backend is sick. What a caller did wrong (4xx) does not, whatever its class.
    fn blames_backend(&self) -> bool {
        matches!(self.class(), Class::Transient { .. } | Class::Indeterminate)
    }
}

impl CallFailure for Denied {
    fn denied(&self) -> Option<&Denied> {
        Some(self)
    }
}

/// What a call that has ended tells of its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It did what it was asked.
    Well,
    /// It answered, and what it said is no fault of its own.
    Answered,
    /// It failed.
    Sick,
    /// Nothing: the call was not made, or its caller went away or had hardly any time.
    Unknown,
}

impl Verdict {
    /// Of a call's outcome.
    pub fn of<T, E: CallFailure>(outcome: &Result<T, E>) -> Self {
        match outcome {
            Ok(_) => Self::Well,
            Err(error) => match error.denied() {
                Some(Denied::TooLate(_)) => Self::Sick,
                Some(Denied::Open { .. } | Denied::Full { .. } | Denied::Overloaded | Denied::GivenUp(_)) => {
                    Self::Unknown
                }
                None if error.blames_backend() => Self::Sick,
                None => Self::Answered,
            },
        }
    }
}

/// Locks; a panic elsewhere has not left the small machines of this module half-way.
fn lock<T>(mutex: &crate::sync::Mutex<T>) -> crate::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
