//! Panics of those who are called from here become failures like others.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mainstay_runtime::{Class, Failure, Reason};

/// What a call gives, or Terminal(Panicked): nothing that it was given is used again in a way that a half-done change of it
/// could disturb.
pub(crate) fn caught<T>(doing: &'static str, call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(panicked(doing)))
}

/// Who was doing what when it panicked.
pub(crate) fn panicked(doing: &'static str) -> Failure {
    Failure::new(Class::Terminal(Reason::Panicked), format!("{doing}: it panicked"))
}
