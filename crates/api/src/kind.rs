//! What a kind is, and the registry of all kinds.
//!
//! Discovery, OpenAPI, Tables, validation, defaulting and field selectors all derive from [`Kind`]: adding one to a
//! [`Registry`] adds it everywhere.

use std::sync::Arc;

use serde_json::Value;

use crate::field::FieldError;

/// One kind served by the API.
#[derive(Debug, Clone)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// `CamelCase` singular.
    pub kind: &'static str,
    /// Lower-case plural, as in URLs.
    pub plural: &'static str,
    /// Lower-case singular.
    pub singular: &'static str,
    /// Short names for the command line.
    pub short_names: &'static [&'static str],
    /// Groups of kinds for the command line, such as `mainstay`.
    pub categories: &'static [&'static str],
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Has a status subresource: the main path ignores status, `/status` ignores all else.
    pub status: bool,
    /// Strategic merge patch is an upstream habit of this kind (core kinds); we answer 415 until it is there.
    pub core: bool,
    /// Columns of a Table after NAME and before AGE, which every kind has.
    pub columns: &'static [Column],
    /// Selectable fields beside `metadata.name` and `metadata.namespace`, as dotted paths.
    pub selectable: &'static [&'static str],
    /// The kind's schema, self-contained (no `$ref`): properties of the whole object.
    pub schema: fn() -> Value,
    /// What to do with a field that the schema does not know.
    pub unknown: Unknown,
    /// The rules of this kind.
    pub rules: Rules,
}

/// What to do with fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// As the request's `fieldValidation` says: refused (Strict), pruned with a warning (Warn), pruned (Ignore).
    AsAsked,
    /// Always a 422 by name: a field that is not enforced must not look as if it were.
    Refuse,
}

/// A column of a Table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean`, `date` (shown as an age).
    pub kind: &'static str,
    /// Dotted path into the object, such as `status.phase`, `spec.members#` (a count) or
    /// `status.conditions[Ready].status` (a condition by type).
    pub path: &'static str,
    /// 0 is shown always, 1 with `-o wide`.
    pub priority: i32,
    /// What it means.
    pub description: &'static str,
}

/// The rules of a kind that a schema cannot say. All are pure.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Completes a new object, after schema defaults (also sets the initial status).
    pub on_create: fn(&mut Value),
    /// Checks a whole new or changed object; the old one is given on updates.
    pub check: fn(new: &Value, old: Option<&Value>) -> Vec<FieldError>,
    /// Checks a change of status.
    pub check_status: fn(new: &Value, old: &Value) -> Vec<FieldError>,
}

impl Rules {
    /// No rules beyond the schema.
    pub const NONE: Self = Self { on_create: |_| {}, check: |_, _| Vec::new(), check_status: |_, _| Vec::new() };
}

impl Kind {
    /// `GROUP/VERSION`, or `VERSION` in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The store's name of the resource: `GROUP/PLURAL`.
    pub fn resource(&self) -> String {
        format!("{}/{}", self.group, self.plural)
    }

    /// `PLURAL.GROUP`, or `PLURAL` in the core group, as messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// All kinds that a server serves.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    kinds: Vec<Arc<Kind>>,
}

impl Registry {
    /// The registry with these kinds.
    pub fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self { kinds: kinds.into_iter().map(Arc::new).collect() }
    }

    /// Every kind of Mainstay.
    pub fn standard() -> Self {
        Self::new(crate::kinds())
    }

    /// The same with one more.
    #[must_use]
    pub fn with(mut self, kind: Kind) -> Self {
        self.kinds.push(Arc::new(kind));
        self
    }

    /// All kinds, in the order of their registration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }

    /// The kind behind a URL.
    pub fn by_plural(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
    }

    /// The kind of a manifest.
    pub fn by_kind(&self, api_version: &str, name: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|kind| kind.kind == name && kind.api_version() == api_version)
    }

    /// The kind that a person means: plural, singular, kind or short name, optionally with `.GROUP`, in any case.
    pub fn by_word(&self, word: &str) -> Option<&Arc<Kind>> {
        let word = word.to_ascii_lowercase();
        let (name, group) = word.split_once('.').map_or((word.as_str(), None), |(name, group)| (name, Some(group)));
        self.kinds.iter().find(|kind| {
            group.is_none_or(|group| kind.group == group)
                && (kind.plural == name || kind.singular == name || kind.short_names.contains(&name))
        })
    }
}
