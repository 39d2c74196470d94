//! Field selectors: `metadata.name=a,status.phase!=Failed`.
//!
//! Only fields that the kind declares selectable may be named. Values may hold `\,`, `\=` and `\\`.

use mainstay_api::Kind;
use mainstay_store::{Key, Meta};

use super::{MAX_TERMS, bounded};

/// A conjunction of comparisons of selectable fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: Field,
    equal: bool,
    value: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// A dotted path that the kind declares selectable.
    Declared(&'static str),
}

impl FieldSelector {
    /// Parses a selector for a kind; the empty one matches everything.
    ///
    /// # Errors
    /// What is wrong; `field label not supported: X` for a field that cannot be selected by.
    pub fn parse(text: &str, kind: &Kind) -> Result<Self, String> {
        bounded(text)?;
        let mut terms = Vec::new();
        for part in split_terms(text).filter(|part| !part.is_empty()) {
            let (name, equal, value) =
                comparison(part).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            let field = match name {
                "metadata.name" => Field::Name,
                "metadata.namespace" if kind.namespaced => Field::Namespace,
                _ => match kind.selectable.iter().find(|path| **path == name) {
                    Some(path) => Field::Declared(path),
                    None => return Err(format!("field label not supported: {name}")),
                },
            };
            terms.push(Term { field, equal, value: unescape(value)?.into() });
            if terms.len() > MAX_TERMS {
                return Err(format!("the selector has more than {MAX_TERMS} requirements"));
            }
        }
        Ok(Self { terms })
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object with this key and meta matches.
    pub fn matches(&self, key: &Key, meta: &Meta) -> bool {
        self.terms.iter().all(|term| {
            let value = match &term.field {
                Field::Name => &*key.name,
                Field::Namespace => &*key.namespace,
                Field::Declared(path) => declared(meta, path),
            };
            (value == &*term.value) == term.equal
        })
    }

    /// The only name that can match, when there is one.
    pub fn exact_name(&self) -> Option<&str> {
        self.exact(&Field::Name)
    }

    /// The only namespace that can match, when there is one.
    pub fn exact_namespace(&self) -> Option<&str> {
        self.exact(&Field::Namespace)
    }

    /// The only value of this selectable field that can match, when there is one.
    pub fn exact_value(&self, path: &'static str) -> Option<&str> {
        self.exact(&Field::Declared(path))
    }

    fn exact(&self, field: &Field) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == *field).map(|term| &*term.value)
    }
}

fn declared<'a>(meta: &'a Meta, path: &str) -> &'a str {
    let found = meta.fields.binary_search_by(|(field, _)| (**field).cmp(path)).ok();
    found.and_then(|at| meta.fields.get(at)).map_or("", |(_, value)| value)
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c: char| {
        let cut = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        cut
    })
}

/// `name OP value`, cut at the first operator.
fn comparison(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (name, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((name, false, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((name, true, value))
}

fn unescape(value: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                Some(c) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            _ => plain.push(c),
        }
    }
    Ok(plain)
}
