//! The resource kinds of Mainstay, with their rules. Pure: no I/O, no async, no clock.
//!
//! [`kind`] says what a kind is; each kind has a file of its own, with its Rust type (schemas derive from it), its
//! rules and its row in the registry. [`phase`] holds the session's state machine.

pub mod field;
pub mod kind;

pub use field::{Fault, FieldError};
pub use kind::{Column, Kind, Registry, Rules, Unknown};

/// The API group of Mainstay's own kinds.
pub const GROUP: &str = "mainstay.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";

/// Every kind of Mainstay.
pub fn kinds() -> Vec<Kind> {
    Vec::new()
}
