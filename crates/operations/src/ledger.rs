//! What workers need to know of an operation's object: whoever serves the objects says how they are read and written.

use std::fmt::Debug;
use std::time::Duration;

use mainstay_runtime::Failure;
use mainstay_runtime::operation::Work;
use mainstay_store::operation::{Standing, State};
use mainstay_store::{Object, Write};
use serde_json::Value;

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
pub struct End {
    /// One of the final states.
    pub state: State,
    /// Why, in one word: `Succeeded`, `Cancelled`, or what it died of.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// What the last step was done with.
    pub output: Value,
    /// The row and the journal, up to now.
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
    fn end(&self, object: &Object, end: &End) -> Result<Write, Failure>;
}
