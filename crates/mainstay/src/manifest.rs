//! Manifests: read from files, folders, standard input and kustomizations; with the place of every field kept, so that
//! errors can point at it.

mod expand;
mod kustomize;
mod patch;
mod read;
pub(crate) mod scalar;
pub(crate) mod yaml;

use std::collections::BTreeMap;

use serde_json::Value;

pub(crate) use expand::expand;
pub(crate) use read::{Source, read_all};

/// What is wrong with a manifest, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub(crate) struct ManifestError {
    /// `FILE`, or `FILE:LINE`.
    pub(crate) place: String,
    /// What is wrong.
    pub(crate) what: String,
}

impl ManifestError {
    pub(crate) fn at(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

impl From<ManifestError> for crate::cli::failure::CliError {
    fn from(error: ManifestError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// One document of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Document {
    /// The file, or `<stdin>`.
    pub(crate) file: String,
    /// Its content.
    pub(crate) value: Value,
    /// Line of each field, by path such as `spec.env[0].name`; the document itself is at the empty path.
    pub(crate) lines: BTreeMap<String, usize>,
}

impl Document {
    /// `FILE:LINE` of a field, or of the nearest field around it.
    pub(crate) fn place(&self, path: &str) -> String {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return format!("{}:{line}", self.file);
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = path.get(..end).unwrap_or_default(),
                None if path.is_empty() => return self.file.clone(),
                None => path = "",
            }
        }
    }

    fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// `apiVersion`.
    pub(crate) fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    /// `kind`.
    pub(crate) fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// `metadata.name`.
    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// `metadata.namespace`, if there is one.
    pub(crate) fn namespace(&self) -> Option<&str> {
        Some(self.text("/metadata/namespace")).filter(|name| !name.is_empty())
    }

    /// Checks that this is an object with a kind and a name.
    fn check(&self) -> Result<(), ManifestError> {
        if !self.value.is_object() {
            return Err(ManifestError::at(
                self.place(""),
                "a manifest must be a mapping, with apiVersion, kind and metadata",
            ));
        }
        for (pointer, path) in [("/apiVersion", "apiVersion"), ("/kind", "kind"), ("/metadata/name", "metadata.name")] {
            match self.value.pointer(pointer) {
                Some(Value::String(text)) if !text.is_empty() => {}
                None | Some(Value::Null) => {
                    let around = path.rsplit_once('.').map_or("", |(parent, _)| parent);
                    return Err(ManifestError::at(self.place(around), format!("{path} is missing")));
                }
                Some(_) => {
                    return Err(ManifestError::at(
                        self.place(path),
                        format!("{path} must be a text that is not empty"),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Adds a step to a path.
fn step(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests;
