//! What workers need to know of an operation's object: whoever gives the objects their form says how they are read and
//! written.

use std::fmt::Debug;
use std::time::Duration;

use mainstay_runtime::Failure;
use mainstay_runtime::operation::Work;
use serde_json::Value;

use super::{Standing, State};
use crate::object::{Object, Write};

/// What an operation's object orders.
#[derive(Debug, Clone)]
pub struct Order {
    /// The work.
    pub work: Work,
    /// After so many failures it is a dead letter.
    pub max_attempts: u32,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// How an operation ends.
#[derive(Debug, Clone)]
pub struct Ending {
    /// One of the final states.
    pub state: State,
    /// Why, in one word: `Succeeded`, `Cancelled`, or what it died of.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// What its last step gave; `null` for nothing.
    pub output: Value,
    /// Its row and its journal, the last attempt included.
    pub standing: Standing,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}

/// Reads orders and writes ends.
pub trait Ledger: Debug + Send + Sync + 'static {
    /// What the object orders.
    ///
    /// # Errors
    /// Terminal, when it cannot be read.
    fn order(&self, object: &Object) -> Result<Order, Failure>;

    /// The write by which the object says how it ended.
    ///
    /// # Errors
    /// Terminal, when the object cannot be read.
    fn end(&self, object: &Object, ending: &Ending) -> Result<Write, Failure>;
}
