//! Structural schemas: defaulting, pruning and validation of objects, derived from Rust types.
//!
//! [`of`] turns a type into a self-contained JSON schema, [`Schema::compile`] turns that into a tree which is walked
//! once per step and request, without cloning: [`Schema::default`], [`Schema::prune`], [`Schema::validate`], and
//! [`Schema::admit`], which is all three.
//!
//! Invariants:
//! - A keyword that constrains values and is not known here fails the compilation; none is silently unenforced.
//! - `apiVersion`, `kind` and `metadata` (with the schema of ObjectMeta) belong to every object.
//! - A field that is `null` is absent, unless its schema says `nullable`.
//! - Recursion is bounded by the depth of the schema, the number of errors by [`MAX_ERRORS`]; nothing panics.

mod check;
mod compile;
mod derive;
mod format;
mod path;
mod shape;

use serde_json::Value;

use crate::field::{Fault, FieldError};
use crate::kind::{Kind, Unknown};

pub use compile::CompileError;
pub use derive::of;
pub use format::quantity;

use compile::Node;
use path::Path;

/// No more errors, and no more unknown fields, are reported of one object.
pub const MAX_ERRORS: usize = 100;

/// What a request wants done about fields that the schema does not know: its query parameter `fieldValidation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Refuse the request.
    Strict,
    /// Drop them, and warn.
    #[default]
    Warn,
    /// Drop them silently.
    Ignore,
}

impl FieldValidation {
    /// Reads the query parameter; absent and empty mean `Warn`.
    ///
    /// # Errors
    /// The error of the parameter.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            "Ignore" => Ok(Self::Ignore),
            other => Err(FieldError {
                value: Some(Value::from(other).to_string()),
                ..FieldError::new(
                    "fieldValidation",
                    Fault::NotSupported,
                    "supported values: \"Ignore\", \"Strict\", \"Warn\"",
                )
            }),
        }
    }
}

/// Why [`Schema::admit`] does not let an object in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Unknown fields under `Strict`, each as `unknown field "spec.x"`: a 400 BadRequest.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    /// Wrong fields: a 422 Invalid with causes.
    #[error("{} wrong fields, the first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Vec<FieldError>),
}

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    root: Node,
}

impl Schema {
    /// Compiles a self-contained schema of whole objects.
    ///
    /// # Errors
    /// [`CompileError`] when it says something that could not be enforced.
    pub fn compile(schema: &Value) -> Result<Self, CompileError> {
        Ok(Self { root: compile::object(schema)? })
    }

    /// Compiles the schema of a kind.
    ///
    /// # Errors
    /// As [`Schema::compile`].
    pub fn of_kind(kind: &Kind) -> Result<Self, CompileError> {
        Self::compile(&(kind.schema)())
    }

    /// Fills in defaults.
    pub fn default(&self, object: &mut Value) {
        shape::default(&self.root, object);
    }

    /// Drops fields that the schema does not know, and nulls; gives the unknown ones as `unknown field "spec.x"`.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        self.cut(object).iter().map(|path| format!("unknown field {path:?}")).collect()
    }

    fn cut(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        shape::prune(&self.root, object, &Path::ROOT, &mut unknown);
        unknown
    }

    /// What is wrong with an object.
    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = check::Errors::new(MAX_ERRORS);
        check::check(&self.root, object, &Path::ROOT, &mut errors);
        errors.into_vec()
    }

    /// Prunes, defaults and validates what a client sent; gives the warnings to send back.
    ///
    /// # Errors
    /// [`Rejection`]; the object is then of no use.
    pub fn admit(
        &self,
        object: &mut Value,
        unknown: Unknown,
        asked: FieldValidation,
    ) -> Result<Vec<String>, Rejection> {
        let cut = self.cut(object);
        let words = || cut.iter().map(|path| format!("unknown field {path:?}")).collect::<Vec<_>>();
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        match (unknown, asked) {
            _ if cut.is_empty() => {}
            (Unknown::Refuse, _) => errors.extend(cut.iter().map(|path| {
                FieldError::new(
                    path.as_str(),
                    Fault::Unknown,
                    "this server does not support it, and does not ignore it",
                )
            })),
            (Unknown::AsAsked, FieldValidation::Strict) => return Err(Rejection::Strict(words())),
            (Unknown::AsAsked, FieldValidation::Warn) => warnings = words(),
            (Unknown::AsAsked, FieldValidation::Ignore) => {}
        }
        self.default(object);
        errors.extend(self.validate(object));
        errors.truncate(MAX_ERRORS);
        if errors.is_empty() { Ok(warnings) } else { Err(Rejection::Invalid(errors)) }
    }
}

#[cfg(test)]
mod tests;
