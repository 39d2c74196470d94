//! Placeholder.

pub mod selector;
