//! Placeholder.

pub mod selector;
pub mod auth;
pub mod crypt;
pub mod keys;
pub mod rbac;
pub mod tls;
pub mod token;
