//! The store through its public interface.

mod basics;
mod child;
mod crash;
mod disk;
mod support;
