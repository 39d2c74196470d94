//! The one table between HTTP status codes and failure classes.

use std::time::Duration;

use crate::failure::{Class, Reason};

/// The class of an answer with this HTTP status; `None` for a success (below 400).
///
/// 5xx without a hint is transient: the server answered, so nothing is in doubt. An absent answer is not a status
/// and is classed [`Class::Indeterminate`] by whoever waited for it.
pub const fn class_of_status(status: u16, retry_after: Option<Duration>) -> Option<Class> {
    Some(match status {
        0..=399 => return None,
        401 => Class::Terminal(Reason::Unauthorized),
        403 => Class::Terminal(Reason::Forbidden),
        404 => Class::Terminal(Reason::NotFound),
        409 => Class::Conflict,
        410 => Class::Terminal(Reason::Expired),
        413 => Class::Terminal(Reason::TooLarge),
        415 | 406 | 405 | 501 => Class::Terminal(Reason::Unsupported),
        408 | 425 | 429 | 500..=507 => Class::Transient { retry_after },
        400..=499 => Class::Terminal(Reason::Invalid),
        _ => Class::Transient { retry_after },
    })
}

/// The HTTP status with which a failure of this class is answered.
pub const fn status_of_class(class: Class) -> u16 {
    match class {
        Class::Transient { .. } => 503,
        Class::Conflict | Class::Fenced => 409,
        Class::Indeterminate => 504,
        Class::Terminal(reason) => match reason {
            Reason::Invalid => 422,
            Reason::Unauthorized => 401,
            Reason::Forbidden | Reason::QuotaExceeded => 403,
            Reason::NotFound => 404,
            Reason::AlreadyExists => 409,
            Reason::Expired => 410,
            Reason::TooLarge => 413,
            Reason::Unsupported => 415,
            Reason::StorageFull => 507,
            Reason::UnknownHandler => 501,
            Reason::Corrupt | Reason::Panicked | Reason::WorkersLost | Reason::SystemRefused => 500,
            Reason::DeadlineExceeded => 504,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R16.
    #[test]
    fn every_error_status_has_a_class_and_no_success_has() {
        assert_eq!(class_of_status(200, None), None);
        for status in 400..600 {
            assert!(class_of_status(status, None).is_some(), "{status}");
        }
        assert_eq!(class_of_status(409, None), Some(Class::Conflict));
        let wait = Some(Duration::from_secs(7));
        assert_eq!(class_of_status(429, wait), Some(Class::Transient { retry_after: wait }));
    }
}
