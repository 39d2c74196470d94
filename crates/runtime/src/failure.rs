//! Failure classes: what the caller should do about a failure, chosen once, where the failure is born.
//!
//! A class is never derived from message text. Each crate's error enum implements [`Classify`] by an exhaustive
//! match; [`Doing::doing`] adds what was being attempted and keeps the source chain.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// What the caller should do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Back off and carry out the same plan again; counts against a breaker.
    Transient {
        /// How long the other side asked us to wait, if it said so.
        retry_after: Option<Duration>,
    },
    /// Someone wrote first: read again and plan again now; no breaker, no warning.
    Conflict,
    /// Sent, but no answer: observe before any repeat.
    Indeterminate,
    /// Our term is over: stop working, retry nothing.
    Fenced,
    /// Nothing will change until the object does.
    Terminal(Reason),
}

impl Class {
    /// A transient failure without a hint when to come back.
    pub const TRANSIENT: Self = Self::Transient { retry_after: None };

    /// The word used in logs, metrics and conditions.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient { .. } => "Transient",
            Self::Conflict => "Conflict",
            Self::Indeterminate => "Indeterminate",
            Self::Fenced => "Fenced",
            Self::Terminal(reason) => reason.as_str(),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a failure is terminal; becomes the reason of the object's condition.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// The reason in `CamelCase`, as conditions and Status objects carry it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

reasons! {
    /// The request or object is not valid.
    Invalid,
    /// The caller is not who it says, or says nothing.
    Unauthorized,
    /// The caller may not do this.
    Forbidden,
    /// What was asked for does not exist.
    NotFound,
    /// An object of that name is there already.
    AlreadyExists,
    /// The revision asked for is no longer retained.
    Expired,
    /// A limit on size, depth or count is exceeded.
    TooLarge,
    /// This server or host does not offer what was asked for.
    Unsupported,
    /// The project's quota is used up.
    QuotaExceeded,
    /// The disk is full.
    StorageFull,
    /// Stored bytes cannot be read as what they should be.
    Corrupt,
    /// The code panicked; the panic is one key's failure.
    Panicked,
    /// A deadline set by the user or the design passed.
    DeadlineExceeded,
    /// No handler of operations has that name.
    UnknownHandler,
    /// Whoever carried it out was lost, again and again.
    WorkersLost,
    /// The system refused an operation for good.
    SystemRefused,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Implemented by every error enum of ours: the class of each variant.
pub trait Classify: Error {
    /// What the caller should do about this failure.
    fn class(&self) -> Class;
}

/// A failure with its class, what was being done, and its source chain.
///
/// `Display` says what was being done; the cause is reached through [`Error::source`]. Print the whole chain with
/// [`Failure::chain`].
#[derive(Debug)]
pub struct Failure {
    doing: Cow<'static, str>,
    class: Class,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure without an underlying error.
    pub fn new(class: Class, what: impl Into<Cow<'static, str>>) -> Self {
        Self { doing: what.into(), class, source: None }
    }

    /// A failure of class `class` caused by `source`.
    pub fn caused_by(
        class: Class,
        doing: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { doing: doing.into(), class, source: Some(source.into()) }
    }

    /// The failure and all its causes, outermost first, joined by `: `.
    pub fn chain(&self) -> String {
        chain_of(self)
    }
}

/// An error and all its causes, outermost first, joined by `: `; a cause whose text its parent already ends with
/// is not repeated.
pub fn chain_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl Classify for Failure {
    fn class(&self) -> Class {
        self.class
    }
}

/// Turns a classed error into a [`Failure`] that says what was being done.
pub trait Doing<T> {
    /// Adds what was being attempted; the class is the error's own.
    fn doing(self, what: impl Into<Cow<'static, str>>) -> Result<T, Failure>;
}

impl<T, E: Classify + Send + Sync + 'static> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<Cow<'static, str>>) -> Result<T, Failure> {
        self.map_err(|error| Failure::caused_by(error.class(), what, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the socket is gone")]
    struct Gone;
    impl Classify for Gone {
        fn class(&self) -> Class {
            Class::Indeterminate
        }
    }

    /// R16, R37.
    #[test]
    fn a_failure_keeps_class_and_cause() {
        let failure = Err::<(), _>(Gone).doing("stop pod").doing("reconcile session").unwrap_err();
        assert_eq!(failure.class(), Class::Indeterminate);
        assert_eq!(failure.chain(), "reconcile session: stop pod: the socket is gone");
    }
}
