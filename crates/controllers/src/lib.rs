//! The controllers: one driver, and a file for each reconciler.
//!
//! Start with [`reconcile`], which says what a reconciler is, then [`driver`], which says when it runs. Controllers
//! are ordinary clients of the API: they hold a `kube::Client` and nothing else of the server.

pub mod driver;
pub mod objects;
pub mod reconcile;

pub use objects::Objects;
pub use reconcile::{FencingToken, Next, Plan, Reconciler, Written};
