//! The resource kinds of Mainstay, with their rules. Pure: no I/O, no async, no clock.
//!
//! [`kind`] says what a kind is; each kind has a file of its own, with its Rust type (schemas derive from it), its
//! rules and its row in the registry. [`phase`] holds the session's state machine.

pub mod agent;
pub mod common;
pub mod core;
pub mod credential;
pub mod exec;
pub mod field;
pub mod kind;
pub mod names;
pub mod node;
pub mod operation;
pub mod phase;
pub mod pod;
pub mod presence;
pub mod project;
pub mod quantity;
pub mod schema;
pub mod session;
pub mod span;

pub use field::{Fault, FieldError};
pub use kind::{Column, Kind, Registry, Rules, Unknown};

/// The API group of Mainstay's own kinds.
pub const GROUP: &str = "mainstay.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";

/// Every kind of Mainstay.
pub fn kinds() -> Vec<Kind> {
    vec![
        project::kind(),
        agent::kind(),
        session::kind(),
        credential::kind(),
        pod::kind(),
        node::kind(),
        operation::kind(),
    ]
    .into_iter()
    .chain(core::kinds())
    .collect()
}
