//! The one table between HTTP status codes and failure classes.
//!
//! It is read by whoever calls a server, of ours or of others. What our own answers with is said where it answers
//! (`ApiError`), in Kubernetes' reasons, of which several may have one status; tests there hold that whoever reads an
//! answer by this table finds the class that the failure had.

use std::time::Duration;

use crate::failure::{Class, Reason};

/// The class of an answer with this HTTP status; `None` for a success (below 400).
///
/// 5xx is transient: the server answered, so nothing is in doubt. But who answers 502 or 504 speaks of somebody behind it that
/// did not answer, or of a wait that it gave up: what was asked for may have been done. An absent answer is not a status and is
/// classed [`Class::Indeterminate`] by whoever waited for it.
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
        502 | 504 => Class::Indeterminate,
        408 | 425 | 429 | 500..=507 => Class::Transient { retry_after },
        400..=499 => Class::Terminal(Reason::Invalid),
        _ => Class::Transient { retry_after },
    })
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
        for in_doubt in [502, 504] {
            assert_eq!(class_of_status(in_doubt, None), Some(Class::Indeterminate));
        }
        let wait = Some(Duration::from_secs(7));
        assert_eq!(class_of_status(429, wait), Some(Class::Transient { retry_after: wait }));
    }
}
