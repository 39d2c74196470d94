//! The synchronisation that [`shuttle`](https://docs.rs/shuttle) can put into every order, when it is built for that.

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{Arc, Mutex, MutexGuard};
#[cfg(not(feature = "shuttle"))]
pub use std::sync::{Arc, Mutex, MutexGuard};
