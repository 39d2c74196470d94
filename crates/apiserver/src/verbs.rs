//! The generic verbs, one file each, for every kind of the registry.

pub(crate) mod batch;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod modify;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod watch;
