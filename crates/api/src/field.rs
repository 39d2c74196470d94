//! What is wrong with a field, in the words that Kubernetes clients know.

use std::fmt;

/// One wrong field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Dotted path, such as `spec.members[0].role`.
    pub path: String,
    /// What kind of wrong.
    pub fault: Fault,
    /// The offending value as JSON, when showing it helps and it is no secret.
    pub value: Option<String>,
    /// What is expected, and how to mend it.
    pub detail: String,
}

/// The kinds of wrong, as `causes[].reason` of a Status names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Missing.
    Required,
    /// Present, but not acceptable.
    Invalid,
    /// Of another JSON type.
    TypeInvalid,
    /// Not one of the allowed values.
    NotSupported,
    /// May not be set (now, or by this caller).
    Forbidden,
    /// Longer than allowed.
    TooLong,
    /// More items than allowed.
    TooMany,
    /// The same twice.
    Duplicate,
    /// No such field.
    Unknown,
}

impl Fault {
    /// The word in `causes[].reason`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid | Self::Unknown => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Duplicate => "FieldValueDuplicate",
        }
    }

    /// How the message begins.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Duplicate => "Duplicate value",
            Self::Unknown => "Unknown field",
        }
    }
}

impl FieldError {
    /// A fault without a value.
    pub fn new(path: impl Into<String>, fault: Fault, detail: impl Into<String>) -> Self {
        Self { path: path.into(), fault, value: None, detail: detail.into() }
    }

    /// A field that must be there.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, Fault::Required, detail)
    }

    /// A value that is not acceptable.
    pub fn invalid(path: impl Into<String>, value: impl fmt::Display, detail: impl Into<String>) -> Self {
        Self { path: path.into(), fault: Fault::Invalid, value: Some(value.to_string()), detail: detail.into() }
    }

    /// The same value for the second time.
    pub fn duplicate(path: impl Into<String>, value: &str) -> Self {
        let value = Some(crate::common::quoted(value));
        Self { path: path.into(), fault: Fault::Duplicate, value, detail: String::new() }
    }

    /// A word that is not one of those allowed.
    pub fn not_supported(path: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let supported: Vec<_> = supported.iter().map(|word| crate::common::quoted(word)).collect();
        let detail = format!("supported values: {}", supported.join(", "));
        Self { path: path.into(), fault: Fault::NotSupported, value: Some(crate::common::quoted(value)), detail }
    }

    /// A field that may not be set or changed.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, Fault::Forbidden, detail)
    }

    /// The message without the path: `Invalid value: "x": must be ...`.
    pub fn message(&self) -> String {
        let mut text = self.fault.words().to_owned();
        for part in self.value.iter().chain((!self.detail.is_empty()).then_some(&self.detail)) {
            text.push_str(": ");
            text.push_str(part);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}
